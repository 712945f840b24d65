# SPDX-License-Identifier: Apache-2.0
"""The comparison with OpenStack Placement, whose ``PUT /allocations/{consumer_uuid}`` does for Nova what a claim does here."""
