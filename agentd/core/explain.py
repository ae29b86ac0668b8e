def explain(state, lines):
    return f"{state.name}: result {state.result}, status {state.exec_status}: {lines[-1] if lines else ''}"
