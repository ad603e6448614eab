"""The browser, started once."""

import pytest

from tests.report.browser import Page


@pytest.fixture(scope="session")
def page():
    opened = Page()
    yield opened
    opened.close()
