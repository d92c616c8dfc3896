"""Vietnamese: a point, not a comma, since templates write numbers into SVG and attributes as well."""

DECIMAL_SEPARATOR = "."
