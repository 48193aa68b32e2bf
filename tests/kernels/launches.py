"""Which kernels a module of `kernels/` launches."""

import ast


def launched_in(source: str) -> set[str]:
    """What a module's text gives to `launch`, by its name there."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return {
        call.args[0].id
        for call in calls
        if isinstance(call.func, ast.Name) and call.func.id == "launch" and isinstance(call.args[0], ast.Name)
    }
