def cooldown_seconds(count, *, base, cap):
    return min(cap, base * 4 ** (count - 1))
def backoff_seconds(attempt, *, base, cap, jitter):
    return min(cap, base * 2 ** (attempt - 1))
