"""Records of a report to HTML, Markdown and JUnit."""
