# SPDX-License-Identifier: Apache-2.0

import pytest

pytest.register_assert_rewrite(f"{__name__}.migrations", f"{__name__}.identity")
