def unavailable():
    return "not merged"


def refusal(name, x, values):
    return None
