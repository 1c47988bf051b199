"""The demo application, `node.chat:sio`: a chat over all nodes."""

from node.chat.events import sio
from node.chat.page import add_page

add_page(sio.web)

__all__ = ["sio"]
