/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * verify: what of it tests call.
 */
#ifndef REPROTECT_CLI_VERIFY_H
#define REPROTECT_CLI_VERIFY_H

#include <jansson.h>

/** verify_verdict - of all checks ({"result", ...}): "good", "warning" or "bad". Pure. */
const char *verify_verdict(const json_t *checks);

#endif
