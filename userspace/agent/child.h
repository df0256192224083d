/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * child: a program, or a function in a process of its own, with a time limit and the last of what it
 * prints. Called by scripts.c and tag.c, so that nothing that hangs can hang the agent.
 *
 * The child leads a process group. When its time is up the group gets SIGTERM, 5 s later SIGKILL; a child that
 * does not end even then (it waits in the kernel) is left behind 5 s later. What it started and left
 * behind when it ended by itself lives on.
 */
#ifndef REPROTECT_AGENT_CHILD_H
#define REPROTECT_AGENT_CHILD_H

#include <stdbool.h>
#include <stdint.h>
#include <systemd/sd-event.h>

#define CHILD_OUTPUT_BYTES 4096u
#define CHILD_KILL_MS 5000u

struct child;

/**
 * struct child_result - how it ended
 * @exit: its exit status; 128 + the signal that killed it
 * @timed_out: it had to be killed
 * @output: the last 4 KiB of what it printed, plain ASCII
 */
struct child_result {
	int exit;
	bool timed_out;
	uint64_t ms;
	const char *output;
};

/**
 * child_start - run @argv (or @function in a fork, exiting with what it returns) for @timeout_ms at most
 * @environment: for @argv
 * @done: called once from the event loop; the owner frees the child, also from there
 */
int child_start(struct child **child, sd_event *event, char *const *argv, char *const *environment,
		int (*function)(void *argument), void *argument, uint64_t timeout_ms,
		void (*done)(void *user, const struct child_result *result), void *user);
/** child_free - kills what still runs */
void child_free(struct child *child);

#endif
