/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * control: the local socket through which the command line talks to a daemon. One JSON
 * object on a line is a request, {"command": ..., ...}; one on a line is the answer:
 * {"ok": true, ...} or {"ok": false, "error": {"message", "remedy"}}.
 * A UNIX stream socket with mode 0600; the peer's uid must be root's or the daemon's own.
 * Requests and answers are bounded (1 MiB), connections too (32), each with a deadline (10 s).
 */
#ifndef REPROTECT_CONTROL_H
#define REPROTECT_CONTROL_H

#include <jansson.h>
#include <systemd/sd-event.h>

#define CONTROL_DIR "/run/reprotect"

struct control;

/** control_error - an answer that says what failed and what to do (@remedy may be NULL) */
json_t *control_error(const char *remedy, const char *format, ...) __attribute__((format(printf, 2, 3)));

/**
 * control_new - serve @path (its directory is made when missing; a stale socket is replaced, a live one
 * is -EADDRINUSE: another instance runs)
 * @handle: answers one request, at once; takes no ownership of @request, gives that of the answer
 */
int control_new(struct control **control, sd_event *event, const char *path,
		json_t *(*handle)(const char *command, const json_t *request, void *user), void *user);
void control_free(struct control *control);

/**
 * control_answer - the answer to one request line (without its end); what the server does with
 * each. NULL only when memory is out.
 */
json_t *control_answer(const char *line, size_t bytes,
		       json_t *(*handle)(const char *command, const json_t *request, void *user),
		       void *user);

/**
 * control_call - ask the daemon at @path and wait (the client's side; blocks up to @timeout_ms)
 * Return: 0 and *answer; -ENOENT or -ECONNREFUSED no daemon; -ETIMEDOUT; -EPROTO.
 */
int control_call(const char *path, const json_t *request, unsigned timeout_ms, json_t **answer);

#endif
