# SPDX-License-Identifier: Apache-2.0
"""Write doc/user/asyncapi.json again; read the difference before the commit."""

from __future__ import annotations

from tests.support.asyncapi.document import DOCUMENT, document
from tests.support.doc_story import text

DOCUMENT.write_text(text(document()), encoding="utf-8")
