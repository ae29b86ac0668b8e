/* A stand-in for the driver's libnvidia-ml.so.1, so that the real pynvml module is driven on a machine without a GPU.
 *
 * $AGENTD_NVML_SHIM names a text file, read anew by every call; without it there is no driver. One thing a line, values
 * without blanks:
 *
 *   driver 580.65.06        nvml 12.580.65        cuda 12080
 *   gpu INDEX uuid=U name=N total=B used=B reserved=B bus=ID temp=C power=mW limit=mW util=% memutil=% reasons=BITS
 *       ecc=CORRECTED ecc2=UNCORRECTED mig=0|1 xids=0|1
 *   instance GPU PLACE uuid=U name=N total=B used=B
 *   link GPU NUMBER active=0|1 peer=ID
 *   proc GPU pid=P used=B|na kind=c|g instance=PLACE
 *   error FUNCTION CODE [GPU [whole]]     every call of it fails so; FUNCTION "*" is all but the start, the end and,
 *                                 for one GPU, the count; "whole" spares the GPU's instances
 *   hang FUNCTION PATH            the call returns once PATH is gone
 *   sleep FUNCTION SECONDS        the call takes so long
 *   xid GPU CODE                  an event; each line of a file is told once in a process
 *
 * A value that is left out is not supported.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { OK, UNINITIALIZED, INVALID, UNSUPPORTED, NO_PERMISSION, NOT_FOUND = 6, TOO_SMALL, TIMED_OUT = 10, NO_LIBRARY = 12 };

#define NONE 0xFFFFFFFFu
#define NOT_AVAILABLE 0xFFFFFFFFFFFFFFFFull
#define EXPORT __attribute__((visibility("default")))

typedef unsigned long long u64;
typedef int (*visit)(char *line, void *data);

static int started, told;

/* -- the file ----------------------------------------------------------------------------------------------------- */

static int each_line(visit call, void *data) {
    const char *path = getenv("AGENTD_NVML_SHIM");
    FILE *file = path && *path ? fopen(path, "re") : NULL;
    char line[1024];
    int stop = 0;
    if (!file) return -1;
    while (!stop && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        stop = call(line, data);
    }
    fclose(file);
    return stop;
}

struct wanted { const char *prefix; char *out; size_t size; };

static int matches(char *line, void *data) {
    struct wanted *w = data;
    size_t n = strlen(w->prefix);
    if (strncmp(line, w->prefix, n) || (line[n] && line[n] != ' ')) return 0;
    snprintf(w->out, w->size, "%s", line + n);
    return 1;
}

/* The rest of the first line that begins with these words; 0 when there is none. */
static int find(char *out, size_t size, const char *format, ...) {
    char prefix[256];
    va_list list;
    va_start(list, format);
    vsnprintf(prefix, sizeof prefix, format, list);
    va_end(list);
    struct wanted w = { prefix, out, size };
    return each_line(matches, &w) == 1;
}

static int word(const char *line, const char *key, char *out, size_t size) {
    char copy[1024], *rest, *part;
    snprintf(copy, sizeof copy, "%s", line);
    size_t n = strlen(key);
    for (part = strtok_r(copy, " ", &rest); part; part = strtok_r(NULL, " ", &rest))
        if (!strncmp(part, key, n) && part[n] == '=') {
            snprintf(out, size, "%s", part + n + 1);
            return 1;
        }
    return 0;
}

static int number(const char *line, const char *key, u64 *out) {
    char text[64];
    if (!word(line, key, text, sizeof text)) return 0;
    *out = strtoull(text, NULL, 0);
    return 1;
}

/* A handle is a number in a pointer's clothes: 1 + GPU, and for an instance 0x1000 more for each place. */
#define GPU(device) ((int)((u64)(device) & 0xFFF) - 1)
#define PLACE(device) ((int)((u64)(device) >> 12) - 1)

/* -- what every call does first ----------------------------------------------------------------------------------- */

struct fault { const char *function; void *device; int code; };

static int fault_line(char *line, void *data) {
    struct fault *f = data;
    char name[128], value[512], whole[8];
    int gpu = -1, n = sscanf(line, "error %127s %511s %d %7s", name, value, &gpu, whole);
    if (n < 2) return 0;
    int all = !strcmp(name, "*") && strcmp(f->function, "nvmlInitWithFlags") && strcmp(f->function, "nvmlShutdown")
              && (n == 2 || strcmp(f->function, "nvmlDeviceGetCount_v2"));
    if ((!all && strcmp(name, f->function)) || (n >= 3 && gpu != GPU(f->device))) return 0;
    if (n == 4 && PLACE(f->device) >= 0) return 0;
    f->code = atoi(value);
    return 1;
}

static int enter(const char *function, void *device) {
    char value[512];
    if (find(value, sizeof value, "hang %s", function))
        while (access(value + 1, F_OK) == 0) usleep(5000);
    if (find(value, sizeof value, "sleep %s", function)) {
        double seconds = atof(value);
        struct timespec left = { (time_t)seconds, (long)((seconds - (long)seconds) * 1e9) };
        nanosleep(&left, NULL);
    }
    struct fault f = { function, device, OK };
    if (each_line(fault_line, &f) < 0) return NO_LIBRARY;
    return f.code;
}

#define ENTER(device)                                \
    if (!started) return UNINITIALIZED;              \
    int failed = enter(__func__, (void *)(device));  \
    if (failed) return failed

static int line_of(void *device, char *out, size_t size) {
    if (PLACE(device) >= 0) return find(out, size, "instance %d %d", GPU(device), PLACE(device));
    return find(out, size, "gpu %d", GPU(device));
}

static int text_of(void *device, const char *key, char *out, unsigned size) {
    char line[1024];
    return line_of(device, line, sizeof line) && word(line, key, out, size) ? OK : UNSUPPORTED;
}

static int number_of(void *device, const char *key, u64 *out) {
    char line[1024];
    return line_of(device, line, sizeof line) && number(line, key, out) ? OK : UNSUPPORTED;
}

static int unsigned_of(void *device, const char *key, unsigned *out) {
    u64 value;
    int failed = number_of(device, key, &value);
    if (!failed) *out = (unsigned)value;
    return failed;
}

/* -- the library and the system ----------------------------------------------------------------------------------- */

EXPORT const char *nvmlErrorString(int code) {
    switch (code) {
        case 1: return "Uninitialized";
        case 2: return "Invalid Argument";
        case 3: return "Not Supported";
        case 4: return "Insufficient Permissions";
        case 6: return "Not Found";
        case 9: return "Driver Not Loaded";
        case 10: return "Timeout";
        case 12: return "NVML Shared Library Not Found";
        case 13: return "Function Not Found";
        case 15: return "GPU is lost";
        case 18: return "Driver/library version mismatch";
        default: return "Unknown Error";
    }
}

EXPORT int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    int failed = enter(__func__, NULL);
    if (!failed) started++;
    return failed;
}

EXPORT int nvmlShutdown(void) {
    if (!started) return UNINITIALIZED;
    started--;
    return OK;
}

static int system_text(const char *key, char *out, unsigned size) {
    char line[256];
    if (!find(line, sizeof line, "%s", key)) return UNSUPPORTED;
    snprintf(out, size, "%s", line + 1);
    return OK;
}

EXPORT int nvmlSystemGetDriverVersion(char *out, unsigned size) { ENTER(0); return system_text("driver", out, size); }
EXPORT int nvmlSystemGetNVMLVersion(char *out, unsigned size) { ENTER(0); return system_text("nvml", out, size); }

EXPORT int nvmlSystemGetCudaDriverVersion_v2(int *out) {
    char text[64];
    ENTER(0);
    if (system_text("cuda", text, sizeof text)) return UNSUPPORTED;
    *out = atoi(text);
    return OK;
}

static int count_gpu(char *line, void *data) {
    if (!strncmp(line, "gpu ", 4)) ++*(unsigned *)data;
    return 0;
}

EXPORT int nvmlDeviceGetCount_v2(unsigned *out) {
    ENTER(0);
    *out = 0;
    each_line(count_gpu, out);
    return OK;
}

/* -- a GPU -------------------------------------------------------------------------------------------------------- */

EXPORT int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **out) {
    char line[1024];
    ENTER((void *)(u64)(index + 1));
    *out = (void *)(u64)(index + 1);
    return line_of(*out, line, sizeof line) ? OK : INVALID;
}

EXPORT int nvmlDeviceGetIndex(void *device, unsigned *out) { ENTER(device); *out = (unsigned)GPU(device); return OK; }

EXPORT int nvmlDeviceGetUUID(void *device, char *out, unsigned size) {
    ENTER(device);
    return text_of(device, "uuid", out, size);
}

EXPORT int nvmlDeviceGetName(void *device, char *out, unsigned size) {
    ENTER(device);
    return text_of(device, "name", out, size);
}

struct memory { u64 total, free, used; };
struct memory_v2 { unsigned version; u64 total, reserved, free, used; };

static int memory_of(void *device, struct memory_v2 *m) {
    m->reserved = 0;
    if (number_of(device, "total", &m->total) || number_of(device, "used", &m->used)) return UNSUPPORTED;
    number_of(device, "reserved", &m->reserved);
    m->free = m->total - m->used - m->reserved;
    return OK;
}

EXPORT int nvmlDeviceGetMemoryInfo(void *device, struct memory *out) {
    struct memory_v2 m;
    ENTER(device);
    if ((failed = memory_of(device, &m))) return failed;
    *out = (struct memory){ m.total, m.free, m.used + m.reserved };
    return OK;
}

EXPORT int nvmlDeviceGetMemoryInfo_v2(void *device, struct memory_v2 *out) {
    ENTER(device);
    return memory_of(device, out);
}

struct process { unsigned pid; u64 used; unsigned instance, compute_instance; };
struct listing { void *device; char kind; unsigned count, room; struct process *out; };

static int list_process(char *line, void *data) {
    struct listing *l = data;
    char kind[8] = "c", used[32] = "na";
    u64 pid = 0, place = NONE;
    int gpu, at = 0;
    if (sscanf(line, "proc %d %n", &gpu, &at) < 1 || gpu != GPU(l->device)) return 0;
    word(line, "kind", kind, sizeof kind);
    word(line, "used", used, sizeof used);
    number(line, "pid", &pid);
    number(line, "instance", &place);
    if (kind[0] != l->kind || (PLACE(l->device) >= 0 && (int)place != PLACE(l->device))) return 0;
    if (l->count < l->room) {
        u64 size = strcmp(used, "na") ? strtoull(used, NULL, 0) : NOT_AVAILABLE;
        l->out[l->count] = (struct process){ (unsigned)pid, size, (unsigned)place, NONE };
    }
    l->count++;
    return 0;
}

static int processes(void *device, char kind, unsigned *count, struct process *out) {
    struct listing l = { device, kind, 0, out ? *count : 0, out };
    each_line(list_process, &l);
    *count = l.count;
    return l.count > l.room ? TOO_SMALL : OK;
}

#define LISTS(name, kind)                                                    \
    EXPORT int name(void *device, unsigned *count, struct process *out) {    \
        ENTER(device);                                                       \
        return processes(device, kind, count, out);                          \
    }
LISTS(nvmlDeviceGetComputeRunningProcesses_v3, 'c')
LISTS(nvmlDeviceGetComputeRunningProcesses_v2, 'c')
LISTS(nvmlDeviceGetGraphicsRunningProcesses_v3, 'g')
LISTS(nvmlDeviceGetGraphicsRunningProcesses_v2, 'g')

struct utilization { unsigned gpu, memory; };

EXPORT int nvmlDeviceGetUtilizationRates(void *device, struct utilization *out) {
    ENTER(device);
    if ((failed = unsigned_of(device, "util", &out->gpu))) return failed;
    return unsigned_of(device, "memutil", &out->memory);
}

EXPORT int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *out) {
    (void)sensor;
    ENTER(device);
    return unsigned_of(device, "temp", out);
}

EXPORT int nvmlDeviceGetPowerUsage(void *device, unsigned *out) { ENTER(device); return unsigned_of(device, "power", out); }

EXPORT int nvmlDeviceGetEnforcedPowerLimit(void *device, unsigned *out) {
    ENTER(device);
    return unsigned_of(device, "limit", out);
}

EXPORT int nvmlDeviceGetCurrentClocksEventReasons(void *device, u64 *out) {
    ENTER(device);
    return number_of(device, "reasons", out);
}

EXPORT int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, u64 *out) {
    ENTER(device);
    return number_of(device, "reasons", out);
}

EXPORT int nvmlDeviceGetTotalEccErrors(void *device, int kind, int counter, u64 *out) {
    (void)counter;
    ENTER(device);
    return number_of(device, kind ? "ecc2" : "ecc", out);
}

struct pci { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; };

EXPORT int nvmlDeviceGetPciInfo_v3(void *device, struct pci *out) {
    ENTER(device);
    memset(out, 0, sizeof *out);
    return text_of(device, "bus", out->bus_id, sizeof out->bus_id);
}

/* -- links and parts ---------------------------------------------------------------------------------------------- */

EXPORT int nvmlDeviceGetNvLinkState(void *device, unsigned link, unsigned *out) {
    char line[256];
    u64 value = 0;
    ENTER(device);
    if (!find(line, sizeof line, "link %d %u", GPU(device), link)) return link ? INVALID : UNSUPPORTED;
    number(line, "active", &value);
    *out = (unsigned)value;
    return OK;
}

EXPORT int nvmlDeviceGetNvLinkRemotePciInfo_v2(void *device, unsigned link, struct pci *out) {
    char line[256];
    ENTER(device);
    memset(out, 0, sizeof *out);
    if (!find(line, sizeof line, "link %d %u", GPU(device), link)) return INVALID;
    return word(line, "peer", out->bus_id, sizeof out->bus_id) ? OK : UNSUPPORTED;
}

EXPORT int nvmlDeviceGetMigMode(void *device, unsigned *now, unsigned *pending) {
    ENTER(device);
    failed = unsigned_of(device, "mig", now);
    if (!failed) *pending = *now;
    return failed;
}

EXPORT int nvmlDeviceGetMaxMigDeviceCount(void *device, unsigned *out) { ENTER(device); *out = 7; return OK; }

EXPORT int nvmlDeviceGetMigDeviceHandleByIndex(void *device, unsigned place, void **out) {
    char line[256];
    ENTER(device);
    *out = (void *)((u64)(place + 1) << 12 | (u64)(GPU(device) + 1));
    return find(line, sizeof line, "instance %d %u", GPU(device), place) ? OK : NOT_FOUND;
}

/* -- events ------------------------------------------------------------------------------------------------------- */

struct event { void *device; u64 type, data; unsigned instance, compute_instance; };
struct next { int skip, gpu, code; };

EXPORT int nvmlEventSetCreate(void **out) { ENTER(0); *out = (void *)1; return OK; }
EXPORT int nvmlEventSetFree(void *set) { (void)set; ENTER(0); return OK; }

EXPORT int nvmlDeviceGetSupportedEventTypes(void *device, u64 *out) {
    u64 has = 1;
    ENTER(device);
    number_of(device, "xids", &has);
    *out = has ? 0x8 : 0;
    return OK;
}

EXPORT int nvmlDeviceRegisterEvents(void *device, u64 types, void *set) {
    (void)types, (void)set;
    ENTER(device);
    return OK;
}

static int next_xid(char *line, void *data) {
    struct next *n = data;
    return sscanf(line, "xid %d %d", &n->gpu, &n->code) == 2 && n->skip-- == 0;
}

EXPORT int nvmlEventSetWait_v2(void *set, struct event *out, unsigned timeout) {
    static char of[512];
    const char *path = getenv("AGENTD_NVML_SHIM");
    (void)set;
    ENTER(0);
    if (path && strcmp(path, of)) {
        snprintf(of, sizeof of, "%s", path);
        told = 0;
    }
    struct next n = { told, 0, 0 };
    if (each_line(next_xid, &n) != 1) {
        usleep(timeout * 1000);
        return TIMED_OUT;
    }
    told++;
    *out = (struct event){ (void *)(u64)(n.gpu + 1), 0x8, (u64)n.code, NONE, NONE };
    return OK;
}
