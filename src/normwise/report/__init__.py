"""Results as a page and as terminal text; the only room that draws."""
