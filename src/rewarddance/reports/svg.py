"""A few drawing words for charts: escaped SVG elements, colours, a scale from data to paper."""

from dataclasses import dataclass
from html import escape

# Blue, vermilion, green, purple, ochre, grey: told apart with every kind of colour blindness (after Okabe and Ito),
# and darkened until text in them has a contrast of 4.5 on white.
COLOURS = ("#0067a5", "#c44601", "#00795a", "#a03c78", "#8f6200", "#56606b")
MARKS = ("circle", "square", "diamond", "triangle")

CHARACTER_WIDTH = 6.3  # of 12-pixel text, on average


@dataclass(frozen=True, slots=True)
class Scale:
    """A straight map from data to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Where a value lies, in pixels."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def element(name: str, content: str = "", /, **attributes: str | float) -> str:
    """An SVG element.

    Args:
        name: Of the element.
        content: SVG inside it, escaped already.
        attributes: Underscores become hyphens; `class_` is `class`.
    """
    text = "".join(f' {key.strip("_").replace("_", "-")}="{_value(value)}"' for key, value in attributes.items())
    return f"<{name}{text}>{content}</{name}>" if content else f"<{name}{text}/>"


def label(text: str, x: float, y: float, /, **attributes: str | float) -> str:
    """Text; escaped here."""
    return element("text", escape(text), x=x, y=y, **attributes)


def polyline(points: list[tuple[float, float]], **attributes: str | float) -> str:
    """A line through points in pixels."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return element("polyline", points=path, fill="none", **attributes)


def mark(shape: str, x: float, y: float, colour: str, size: float = 4.5) -> str:
    """A filled mark with a white rim, centred on a point."""
    style: dict[str, str | float] = {"fill": colour, "stroke": "#fff", "stroke_width": 1.2}
    corners = {
        "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
        "diamond": [(0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)],
        "triangle": [(0, -1.2), (1.15, 0.85), (-1.15, 0.85)],
    }
    if shape not in corners:
        return element("circle", cx=x, cy=y, r=size, **style)
    path = " ".join(f"{x + size * dx:.1f},{y + size * dy:.1f}" for dx, dy in corners[shape])
    return element("polygon", points=path, **style)


def drawing(content: str, width: float, height: float, description: str) -> str:
    """A whole picture that fills the width it is given.

    Args:
        content: SVG, escaped already.
        width: In its own pixels.
        height: In its own pixels.
        description: What a screen reader says.
    """
    return element(
        "svg",
        content,
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_label=description,
        xmlns="http://www.w3.org/2000/svg",
    )


def shortened(text: str, characters: int) -> str:
    """Text that is at most so many characters long."""
    return text if len(text) <= characters else text[: characters - 1] + "…"


def text_width(text: str) -> float:
    """About how wide 12-pixel text is."""
    return len(text) * CHARACTER_WIDTH


def _value(value: str | float) -> str:
    return escape(value) if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")
