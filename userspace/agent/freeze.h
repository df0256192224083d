/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * freeze: FIFREEZE on a list of filesystems, by a helper process, so that a filesystem
 * that does not freeze cannot hang the agent. Called by failback.c and tag.c.
 *
 * The helper holds what it froze: it thaws when told to, when the agent dies, and when its
 * time is up, whichever is first; freeze_keep() is the only way to leave them frozen. It has a thread
 * that freezes and one that watches: while a filesystem does not come to rest, the others are thawed in time, and
 * that one as soon as it is frozen.
 *
 *	state     event                         next
 *	FREEZING  all frozen                    FROZEN (hook frozen, 0)
 *	FREEZING  one fails or takes too long   THAWING (hook frozen, error)
 *	FROZEN    freeze_thaw                   THAWING
 *	FROZEN    freeze_keep                   KEPT
 *	THAWING   the helper is done            DONE (hook thawed)
 */
#ifndef REPROTECT_AGENT_FREEZE_H
#define REPROTECT_AGENT_FREEZE_H

#include <systemd/sd-event.h>

#include "mounts.h"

#define FREEZE_EACH_MS 10000u /* for failback: the next filesystem has to be frozen within that */
#define FREEZE_THAW_MS 30000u

struct freeze;

/**
 * struct freeze_hooks - from the event loop
 * @frozen: @rc 0: all are; else the filesystem @point failed (text in strerror(-rc), -ETIME
 *	for too slow) and thawing has begun
 * @thawed: all are thawed (@rc 0) or the helper did not manage to in time. @asked: by freeze_thaw();
 *	else the helper did it by itself, and how long they had been frozen is not known
 */
struct freeze_hooks {
	void (*frozen)(void *user, int rc, const char *point);
	void (*thawed)(void *user, int rc, bool asked);
};

/** freeze_start - @list is copied; @each_ms: for the next one to freeze; @limit_ms: when the helper thaws by itself */
int freeze_start(struct freeze **freeze, sd_event *event, const struct mount_entry *list,
		 size_t count, uint64_t each_ms, uint64_t limit_ms, const struct freeze_hooks *hooks, void *user);
void freeze_thaw(struct freeze *freeze);
void freeze_keep(struct freeze *freeze);
/** freeze_free - thaws unless kept */
void freeze_free(struct freeze *freeze);

/** freeze_thaw_list - thaw filesystems that were left frozen. Number of them that failed. */
size_t freeze_thaw_list(const struct mount_entry *list, size_t count);

#endif
