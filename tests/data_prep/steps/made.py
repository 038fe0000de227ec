"""Steps as a user writes them."""

from pathlib import Path

from data_prep.text.document import Document


class Upper:
    """Drops what begins with a digit, and writes the rest in capitals."""

    def __init__(self, times: int = 1) -> None:
        self.files = [Path(__file__).with_name("__init__.py")]
        self.times = times

    def __call__(self, document: Document) -> str | None:
        if document.text[:1].isdigit():
            return "begins with a digit"
        document.text = document.text.upper() * self.times
        document.columns["capitals"] = sum(map(str.isupper, document.text))
        return None


class Faulty:
    """Does what no step may."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __call__(self, document: Document) -> object:
        if self.how == "raise":
            raise ZeroDivisionError("by nothing")
        if self.how == "exit":
            raise SystemExit(0)
        if self.how == "text":
            document.text = None
        if self.how == "columns":
            document.columns = None
        if self.how == "where":
            document.where = 3
        if self.how == "object":
            document.columns["made"] = [object()]
        if self.how == "deep":
            document.columns["made"] = document.columns
        if self.how == "large":
            document.columns["made"] = 10**5000
        return {"return": 7, "reasons": document.text, "blank": " "}.get(self.how)

    def check(self) -> None:
        if self.how == "check":
            raise KeyError("unchecked")


class Counting:
    """Remembers the documents that it has seen, as no step should."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, document: Document) -> None:
        self.seen += 1
        document.columns["number"] = self.seen


NO_CLASS = 3
