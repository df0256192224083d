/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * scripts: the scripts of app_dir that prepare applications for a tag (pre) and let them go on (post).
 * Called by tag.c. The contract with a script is in reprotect-agent(8).
 *
 * Executables in the order of their names; "post" in the reverse order, and only for those whose "pre" was
 * started. The first "pre" that fails ends "pre". Refused: a directory or script that others than
 * its owner (root, or who runs the agent) may write.
 */
#ifndef REPROTECT_AGENT_SCRIPTS_H
#define REPROTECT_AGENT_SCRIPTS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <systemd/sd-event.h>

#define SCRIPTS_MAX 32u

struct scripts;

/**
 * scripts_new - look for them
 * @tag: name of the tag, for their environment
 * @run_dir: where a pre may leave what its post needs (in memory, never frozen)
 * @hold_ms: when a script has to let go by itself what it holds
 * Errors: -EPERM and @error names what may be written by others, others: it cannot be read. A directory
 * that is not there has no scripts.
 */
int scripts_new(struct scripts **scripts, sd_event *event, const char *directory, const char *tag,
		const char *run_dir, uint64_t timeout_ms, uint64_t hold_ms, char *error,
		size_t error_bytes);
/** scripts_pre, scripts_post - run them; @done from the event loop, or from here when there are none: @error empty
 *	when all succeeded. scripts_post runs all, whatever fails. */
void scripts_pre(struct scripts *scripts, void (*done)(void *user, const char *error), void *user);
void scripts_post(struct scripts *scripts, void (*done)(void *user, const char *error), void *user);
/** scripts_results - [{"path","phase","exit","ms","output"}] so far; borrowed */
json_t *scripts_results(const struct scripts *scripts);
/** scripts_free - kills what runs */
void scripts_free(struct scripts *scripts);

#endif
