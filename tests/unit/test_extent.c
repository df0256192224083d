// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The module's extents: the KUnit suite, compiled from the module's sources.
 *
 * LINK: tests/unit/kunit.c
 */
#include "../kunit/harness.h"
#include "../../kmod/map.c"
#include "../../kmod/extent.c"
#include "../kunit/extent_test.c"
