/* SPDX-License-Identifier: BSD-2-Clause */
/* The group that a device belongs to. It decides which rule of enforcement counts
 * (policy/enforcement.h), and goes into events as DeviceGroupId. Operators put devices into groups;
 * a group exists by being named, whether a rule names it as well or not. */
#pragma once

#include "policy/decision.h"
#include "policy/rotation.h"

/* Letters, digits and " ._-()/:+@=#&,", no space at either end, at most LABEL_MAX; or empty: no
 * group. */
bool group_name_is_valid(const char *name);

/* PASS GROUP_CHANGED with DEVICE_GROUP_CHANGED (the device's live connections are decided again);
 * PASS GROUP_UNCHANGED without a commit; REFUSE REASON_REQUIRED, GROUP_INVALID, NO_SUCH_DEVICE. */
void group_assign(const struct device_record *record, const char *group,
                  const struct operator_act *act, struct decision *out);
