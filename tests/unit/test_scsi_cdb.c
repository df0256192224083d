// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The module's decoding of SCSI commands: the KUnit suite, compiled from the
 * module's sources.
 *
 * LINK: tests/unit/kunit.c
 */
#include "../kunit/harness.h"
#include "../../kmod/scsi_cdb.c"
#include "../kunit/scsi_cdb_test.c"
