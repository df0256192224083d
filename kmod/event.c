// SPDX-License-Identifier: GPL-2.0
/*
 * Events that the hot path raises: bits of the disk, sent from a work item. An
 * event that comes again while it is pending is sent once, so nothing queues up.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include "disk.h"

/**
 * blkcbt_event_work() - send what has been raised
 * @work: event_work of the disk; holds a reference of its @ref
 */
void blkcbt_event_work(struct work_struct *work)
{
	struct blkcbt_disk *d = container_of(work, struct blkcbt_disk, event_work);
	unsigned long events = xchg(&d->events, 0);
	unsigned int event;

	for (event = BLKCBT_EVENT_ATTACHED; event <= BLKCBT_EVENT_STORE; event++) {
		if (!(events & BIT(event)))
			continue;
		if (event == BLKCBT_EVENT_RESYNC)
			pr_warn_ratelimited("disk %s: the whole disk is marked dirty\n",
					    d->gd->disk_name);
		if (event == BLKCBT_EVENT_RESIZED)
			pr_warn("disk %s: its size has changed (detach and attach it again)\n",
				d->gd->disk_name);
		if (event == BLKCBT_EVENT_DOWNGRADED)
			pr_warn_ratelimited("disk %s: the open consistent epoch is fuzzy from now on\n",
					    d->gd->disk_name);
		blkcbt_genl_multicast(d, event);
	}
	percpu_ref_put(&d->ref);
}
