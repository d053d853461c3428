"""Commands that print ratios against a named peer on the same work in one run; never a test. See docs/performance.md."""
