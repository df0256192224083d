// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The module's epoch transaction: the KUnit suite, compiled from the module's sources.
 *
 * LINK: tests/unit/kunit.c
 */
#include "../kunit/harness.h"
#include "../../kmod/epoch.c"
#include "../kunit/epoch_test.c"
