/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * status: what the control socket answers: status, forget, version. Called by control.c
 * through main.c.
 */
#ifndef MASTER_TARGET_STATUS_H
#define MASTER_TARGET_STATUS_H

#include <jansson.h>

/** status_handle - answer one request; @user is the server */
json_t *status_handle(const char *command, const json_t *request, void *user);

#endif
