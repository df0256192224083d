/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * link: the agent's connection to its process server: connecting with backoff, HELLO, and
 * what the other side says. Called by agent.c, epoch.c, failback.c.
 *
 *	state       event                     next
 *	DOWN        link_start, backoff over  CONNECTING
 *	CONNECTING  connected                 HELLO (ours is sent, 15 s for the answer)
 *	HELLO       HELLO_ACK                 UP
 *	any         closed, refused, timeout  DOWN, again after 0.5 s doubling to 10 s
 *	any         link_stop                 STOPPED
 */
#ifndef REPROTECT_AGENT_LINK_H
#define REPROTECT_AGENT_LINK_H

#include "agent.h"
#include "conn.h"

enum link_state { LINK_STOPPED, LINK_DOWN, LINK_CONNECTING, LINK_HELLO, LINK_UP };

struct link {
	struct agent *agent;
	enum link_state state;
	struct conn *conn;
	sd_event_source *timer;
	uint64_t backoff_ms;
	uint64_t up_since_ms; /* wall clock, 0: not up */
	uint64_t max_epoch_bytes;
	struct agent_problem problem;
	char peer_program[64], peer_version[64];
	uint64_t reconnects;
};

int link_new(struct link **link, struct agent *agent);
void link_free(struct link *link);
void link_start(struct link *link);
/** link_stop - close for good; link_start begins anew */
void link_stop(struct link *link);
/** link_again - close and connect again: @now at once, else after the backoff */
void link_again(struct link *link, bool now);
const char *link_state_name(const struct link *link);

#endif
