"""What other sites show when somebody links to the app: its own title, description and image instead of Gradio's."""

import html
import re
from collections.abc import Callable
from pathlib import Path

from gradio import routes
from jinja2 import BaseLoader, Environment
from starlette.responses import FileResponse
from starlette.routing import Route

from brain_xai.ui import texts

IMAGE = Path(__file__).with_name("readme.png")
ALT = "A drawn scan, and two maps of what in it speaks for the model's answer"
TEMPLATE = "frontend/index.html"
GRADIOS_TAGS = re.compile(r'<meta\s+(?:property="og:|name="twitter:)[^>]*>\s*')
# The address of the page is known only when it is asked for, and these tags need it.
TAGS = """
<title>{title}</title>
<meta name="description" content="{description}" />
<meta property="og:type" content="website" />
<meta property="og:title" content="{title}" />
<meta property="og:description" content="{description}" />
<meta property="og:url" content="{{{{ config['root'] }}}}/" />
<meta property="og:image" content="{{{{ config['root'] }}}}/{image}" />
<meta property="og:image:alt" content="{alt}" />
<meta name="twitter:card" content="summary_large_image" />
"""

ROUTE = Route(f"/{IMAGE.name}", lambda request: FileResponse(IMAGE))


def add_link_preview() -> None:
    """Put the tags into Gradio's page; `launch(head=…)` adds to it only in a browser, which those sites do not run."""
    loader = routes.templates.env.loader
    if not isinstance(loader, OwnTags):
        routes.templates.env.loader = OwnTags(loader)


class OwnTags(BaseLoader):
    """Gradio's templates with our tags."""

    def __init__(self, loader: BaseLoader):
        self._loader = loader

    def get_source(self, environment: Environment, template: str) -> tuple[str, str | None, Callable[[], bool] | None]:
        """Return the text of a template."""
        source, *rest = self._loader.get_source(environment, template)
        return (with_tags(source) if template == TEMPLATE else source, *rest)


def with_tags(source: str) -> str:
    """Return a page with our tags in place of Gradio's, at its start, because some sites read no further."""
    tags = TAGS.format(
        title=html.escape(texts.TITLE),
        description=html.escape(texts.TAGLINE),
        image=IMAGE.name,
        alt=html.escape(ALT),
    )
    return GRADIOS_TAGS.sub("", source).replace("<head>", f"<head>{tags}", 1)
