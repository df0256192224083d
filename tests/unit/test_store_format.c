// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The store's format: the KUnit suite, compiled from the module's sources.
 *
 * LINK: tests/unit/kunit.c
 */
#include "../kunit/harness.h"
#include "../../kmod/map.c"
#include "../../kmod/store_format.c"
#include "../../kmod/store_load.c"
#include "../kunit/store_format_test.c"
