"""The web console: its JSON API, its live events and its page. See docs/architecture/web.md."""
