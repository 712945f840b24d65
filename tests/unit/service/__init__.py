# SPDX-License-Identifier: Apache-2.0
import tests.support.messaging  # noqa: F401 before oslo.messaging, which these modules' subjects import
