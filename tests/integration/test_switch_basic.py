from integration.stack import Stack

def test_it(stack: Stack):
    for i in range(14):
        t = ["dolphin","qwen"][i%2]
        code, change = stack.switch(t)
        print(code, change["message"], change["finished"]-change["created"], [(p["phase"], round(p["seconds"],3)) for p in change["phases"]])
        assert stack.serving()==[t]
        print(stack.models_up(), stack.claims(), stack.open_changes())
    assert 0
