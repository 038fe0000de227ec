"""Print the tables of operators that the documentation has: `python -m pipeline.operators`."""

from collections.abc import Mapping

from pipeline.operators import DEPTH, WIDTH, DepthOperator, WidthOperator


def table(key: str, operators: Mapping[str, WidthOperator] | Mapping[str, DepthOperator]) -> str:
    """Return the operators of one key of the growth section, a row each, in Markdown."""
    rows = [f"| `{key}` | what it does | options | source |", "|---|---|---|---|"]
    for name, operator in operators.items():
        options = ", ".join(f"`{option.name}`" for option in operator.options)
        rows.append(f"| `{name}` | {operator.summary} | {options} | {operator.citation} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(table("width", WIDTH), table("depth", DEPTH), sep="\n\n")
