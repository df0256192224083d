/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * session: one connection from a process server, from HELLO to its end. Checks the HELLO,
 * joins the connection to its machine, gives frames a place in the buffer pool, and sends what the
 * apply has to say.
 */
#ifndef MASTER_TARGET_SESSION_H
#define MASTER_TARGET_SESSION_H

#include "machine.h"

#define SESSION_HELLO_MS 10000u /* from connecting to a HELLO */
#define SESSION_DRAIN_MS 30000u /* that an older connection's writes may take */

extern const struct apply_events session_apply_events;

/** session_accepted - for conn_listen(); @user is the server */
void session_accepted(struct conn *conn, void *user);
/** session_tick - deadlines of all sessions */
void session_tick(struct server *server);
/** session_detach - close what is connected to @machine, without a word */
void session_detach(struct machine *machine);
/** session_waited - what the waiting connection of @machine waited for has ended: go on, or (with @fault) refuse it */
void session_waited(struct machine *machine, const struct fault *fault);
/** session_put_off - a rollback begins: refuse whoever is connected, saying so */
void session_put_off(struct machine *machine);
/** sessions_close - at the end of the program */
void sessions_close(struct server *server);
/** session_peer - who is connected, or NULL */
const char *session_peer(const struct session *session);
/** session_parse_hello - Return: 0, or -1 with @fault (exposed for tests) */
int session_parse_hello(const void *text, size_t bytes, struct hello *hello, struct fault *fault);

#endif
