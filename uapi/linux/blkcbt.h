/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * blkcbt: changed-block tracking. The contract between the kernel module and
 * user space; the only header that both include.
 *
 * Control, statistics and events go through the generic netlink family
 * BLKCBT_GENL_NAME. The extents of an open epoch are read from the character
 * device of the disk (see struct blkcbt_extent).
 *
 * Words: a granule is the unit of tracking; the dirty map has one bit per
 * granule; a cut ends one epoch and begins the next on all disks it names;
 * commit forgets an epoch, abort puts it back into the dirty map. A disk has
 * at most one open (cut, neither committed nor aborted) epoch.
 *
 * A consistent epoch can be read as its disks were at the cut: through the
 * image, a read-only block device, while its granules are preserved before they
 * are overwritten. Hold makes writers wait before a cut, release lets them go.
 *
 * All lengths and offsets are in bytes on the whole disk. All times are
 * CLOCK_BOOTTIME in nanoseconds.
 */
#ifndef _UAPI_LINUX_BLKCBT_H
#define _UAPI_LINUX_BLKCBT_H

#include <linux/types.h>

#define BLKCBT_GENL_NAME	"blkcbt"
#define BLKCBT_GENL_VERSION	1
#define BLKCBT_MCGRP_EVENTS	"events"

/* The character device of tracked disk number I (BLKCBT_A_INDEX). */
#define BLKCBT_CHARDEV_FORMAT	"/dev/blkcbt/%u"

#define BLKCBT_GRANULE_MIN	4096u
#define BLKCBT_GRANULE_MAX	(1024u * 1024u)
#define BLKCBT_GRANULE_DEFAULT	4096u

/*
 * The image of tracked disk number I: the disk as it was at the cut of the open
 * consistent epoch (see enum blkcbt_epoch_mode). It is there from the first
 * such cut until the disk is detached. Read it with O_DIRECT: what the page
 * cache has may be of an earlier epoch.
 */
#define BLKCBT_IMAGE_FORMAT	"/dev/blkcbt_image%u"

/* Memory for preserved granules, for all disks of a cut together. */
#define BLKCBT_BUDGET_DEFAULT	(64u * 1024u * 1024u)

/* How long a hold may last. */
#define BLKCBT_HOLD_MS_DEFAULT	300u
#define BLKCBT_HOLD_MS_MAX	5000u

/* Most disks that one cut, commit or abort may name. */
#define BLKCBT_GROUP_MAX	256u

/*
 * The crash-safe store of a disk: a partition, a volume, or a preallocated file, which
 * keeps over a restart what is dirty. After a power cut whole extents are dirty,
 * namely those that were in use ("hot"), and the rest is exact.
 */
#define BLKCBT_STORE_EXTENT_DEFAULT	(4u * 1024u * 1024u)
/* Extents in use; more is retired at once, what is not written for a while soon. */
#define BLKCBT_STORE_HOT_DEFAULT	1024u

/* What user space names a disk by in its store, e.g. its serial number; padded with zeros. */
#define BLKCBT_IDENTITY_BYTES	64u

/**
 * enum blkcbt_cmd - commands of the family
 * @BLKCBT_CMD_INFO: the module itself. Request: nothing. Reply:
 *	%BLKCBT_A_MODULE_VERSION, %BLKCBT_A_GATE_MODE, %BLKCBT_A_OBSERVERS,
 *	%BLKCBT_A_GATE_REASON (only when degraded), %BLKCBT_A_HOLDS,
 *	%BLKCBT_A_FAULTS (only in a fault-injection build).
 * @BLKCBT_CMD_ATTACH: start tracking. Request: %BLKCBT_A_MAJOR,
 *	%BLKCBT_A_MINOR, optional %BLKCBT_A_GRANULE_BYTES. Reply: one
 *	%BLKCBT_A_DISK nest as in GET. Every granule starts dirty.
 *	With a store (the attributes of STORE_ADD): what the store says starts
 *	dirty, or everything, if it is not trusted. The disk is attached in either
 *	case; the reply tells. With %BLKCBT_A_STORE_AWAITED: nothing starts dirty,
 *	what is written is marked, and nothing can be cut until STORE_ADD or
 *	STORE_DROP. For a disk whose store is not to be read yet.
 *	Errors: ENODEV no such disk, EINVAL granule, a partition, or not a disk
 *	with a size; EOPNOTSUPP zoned, or an observer is missing that this kind
 *	of disk needs; EEXIST already tracked.
 * @BLKCBT_CMD_DETACH: stop tracking. Request: %BLKCBT_A_MAJOR,
 *	%BLKCBT_A_MINOR, optional %BLKCBT_A_FORCE. Errors: ENOENT not tracked;
 *	EBUSY an epoch is open and no FORCE.
 * @BLKCBT_CMD_GET: state and statistics. Request (do): MAJOR, MINOR; (dump):
 *	nothing. Reply: one %BLKCBT_A_DISK nest for each disk. Needs no privilege.
 * @BLKCBT_CMD_CUT: end the current epoch on the named disks, at once for all
 *	of them or for none. Request: %BLKCBT_A_EPOCH (greater than any epoch
 *	that these disks have seen), one or more %BLKCBT_A_DISK nests (MAJOR,
 *	MINOR), optional %BLKCBT_A_EPOCH_MODE (default fuzzy),
 *	%BLKCBT_A_BUDGET_BYTES (default BLKCBT_BUDGET_DEFAULT; not with fuzzy),
 *	%BLKCBT_A_HOLD_ID (cut within this hold, which goes on; its disks must be
 *	the disks of the cut). Reply: %BLKCBT_A_EPOCH, %BLKCBT_A_CUT_NS,
 *	%BLKCBT_A_HOLD_NS. Errors: ENOENT, EBUSY an epoch is open, or a hold is
 *	in force on one of the disks, EINVAL epoch number, or disks that are not
 *	those of the hold, ENODEV disk is gone, ERANGE disk was resized,
 *	EOPNOTSUPP not fuzzy and there is no gate, ETIMEDOUT the hold is over,
 *	EAGAIN a disk awaits its store, ENOMEM.
 * @BLKCBT_CMD_COMMIT: the target has epoch %BLKCBT_A_EPOCH durably: forget it.
 *	Request: %BLKCBT_A_EPOCH, %BLKCBT_A_DISK nests (MAJOR, MINOR, optional
 *	%BLKCBT_A_FROM_BYTES and %BLKCBT_A_TO_BYTES: only granules that lie
 *	wholly in [from, to) are forgotten, the rest is put back as by ABORT; the
 *	last granule of the disk counts as whole when to >= the disk's size).
 *	Errors: ENOENT, ESRCH this epoch is not the open one.
 * @BLKCBT_CMD_ABORT: the target does not have it: put it back into the dirty
 *	map. Request and errors as COMMIT, without ranges.
 * @BLKCBT_CMD_MARK: mark a range dirty in the current epoch, in the store as
 *	well. Request: MAJOR, MINOR, optional %BLKCBT_A_FROM_BYTES,
 *	%BLKCBT_A_TO_BYTES (default: whole disk). For resync.
 * @BLKCBT_CMD_HOLD: writes to the named disks wait from now on. When this
 *	returns, no write is on its way past the filter any more; what is in
 *	flight below is not waited for. Request: one or more %BLKCBT_A_DISK nests
 *	(MAJOR, MINOR), optional %BLKCBT_A_DEADLINE_MS (1 to BLKCBT_HOLD_MS_MAX,
 *	default BLKCBT_HOLD_MS_DEFAULT). Reply: %BLKCBT_A_HOLD_ID. The hold ends
 *	by RELEASE, when the deadline has passed, when the socket that asked for
 *	it is closed, whichever is first. Errors: ENOENT, EINVAL, EBUSY a hold is
 *	in force (there is one at a time), EOPNOTSUPP there is no gate.
 * @BLKCBT_CMD_RELEASE: let the writers of a hold go. Request:
 *	%BLKCBT_A_HOLD_ID. Errors: ETIMEDOUT it was over before.
 * @BLKCBT_CMD_STORE_FORMAT: make a store for a disk. Whatever the file or device
 *	held is gone. Request: MAJOR, MINOR, %BLKCBT_A_STORE_FD,
 *	%BLKCBT_A_IDENTITY, optional %BLKCBT_A_GRANULE_BYTES,
 *	%BLKCBT_A_STORE_EXTENT_BYTES. A file must be written in all of its
 *	length. Errors: ENODEV no such disk, EINVAL, ENOSPC it is too small (the text
 *	says what is needed), EOPNOTSUPP such a file cannot be a store, EBUSY it is in
 *	use.
 * @BLKCBT_CMD_STORE_ADD: give a store to a disk that awaits one, or was attached with
 *	one or awaiting one and has none any more, or has no requests. Request: MAJOR,
 *	MINOR, %BLKCBT_A_STORE_FD (a block device, or a file on ext4 or xfs; it is kept
 *	open), %BLKCBT_A_IDENTITY, optional %BLKCBT_A_STORE_GENERATION (the least that is
 *	trusted), %BLKCBT_A_STORE_HOT_MAX. What is marked stays marked. What the store says
 *	is added, if the disk awaited it; if not, the store begins with what is marked.
 *	Where nothing was cut yet, the last epoch of which the store knows that
 *	it was committed becomes the disk's (%BLKCBT_A_EPOCH_COMMITTED): if the target has
 *	less, it needs a resync. Reply: as ATTACH. That it is not trusted is no error: then
 *	everything is dirty. Errors: ENOENT, EEXIST it has one, EOPNOTSUPP, EBUSY writes are
 *	under way for too long.
 * @BLKCBT_CMD_STORE_DROP: save the store of a disk and let go of it, or do without
 *	the one that is awaited. Tracking goes on. Request: MAJOR, MINOR. Errors:
 *	ENOENT.
 * @BLKCBT_CMD_EVENT: sent to the multicast group, never by user space:
 *	%BLKCBT_A_EVENT and, where it concerns a disk, a %BLKCBT_A_DISK nest
 *	(MAJOR, MINOR, NAME, and what the event says).
 *
 * Every command but INFO and GET needs CAP_SYS_ADMIN (EPERM). Unknown commands
 * and attributes are refused (EOPNOTSUPP, EINVAL). Errors carry a text in the
 * extended acknowledgment that names the disk and says what to do.
 */
enum blkcbt_cmd {
	BLKCBT_CMD_UNSPEC,
	BLKCBT_CMD_INFO,
	BLKCBT_CMD_ATTACH,
	BLKCBT_CMD_DETACH,
	BLKCBT_CMD_GET,
	BLKCBT_CMD_CUT,
	BLKCBT_CMD_COMMIT,
	BLKCBT_CMD_ABORT,
	BLKCBT_CMD_MARK,
	BLKCBT_CMD_EVENT,
	BLKCBT_CMD_HOLD,
	BLKCBT_CMD_RELEASE,
	BLKCBT_CMD_STORE_FORMAT,
	BLKCBT_CMD_STORE_ADD,
	BLKCBT_CMD_STORE_DROP,
	__BLKCBT_CMD_MAX,
	BLKCBT_CMD_MAX = __BLKCBT_CMD_MAX - 1
};

/**
 * enum blkcbt_attr - attributes of the family, one flat space
 *
 * The type of each stands beside it. "string" is NUL-terminated.
 */
enum blkcbt_attr {
	BLKCBT_A_UNSPEC,
	BLKCBT_A_PAD,
	BLKCBT_A_MODULE_VERSION,	/* string */
	BLKCBT_A_GATE_MODE,		/* u32, enum blkcbt_gate_mode */
	BLKCBT_A_GATE_REASON,		/* string: why it is degraded */
	BLKCBT_A_FAULTS,		/* flag: built with fault injection */
	BLKCBT_A_DISK,			/* nest of the attributes below */
	BLKCBT_A_MAJOR,			/* u32 */
	BLKCBT_A_MINOR,			/* u32 */
	BLKCBT_A_NAME,			/* string: kernel name, e.g. "vda" */
	BLKCBT_A_INDEX,			/* u32: number of its character device */
	BLKCBT_A_GRANULE_BYTES,		/* u32 */
	BLKCBT_A_SIZE_BYTES,		/* u64 */
	BLKCBT_A_FLAGS,			/* u32, BLKCBT_DISK_F_* */
	BLKCBT_A_FORCE,			/* flag */
	BLKCBT_A_EPOCH,			/* u64: in GET, the last epoch cut (0: none) */
	BLKCBT_A_EPOCH_STATE,		/* u32, enum blkcbt_epoch_state */
	BLKCBT_A_EPOCH_COMMITTED,	/* u64: last epoch committed (0: none) */
	BLKCBT_A_CUT_NS,		/* u64: time of the last cut */
	BLKCBT_A_FROM_BYTES,		/* u64 */
	BLKCBT_A_TO_BYTES,		/* u64 */
	BLKCBT_A_DIRTY_BYTES,		/* u64: in the current dirty map */
	BLKCBT_A_OPEN_BYTES,		/* u64: in the open epoch */
	BLKCBT_A_MAP_BYTES,		/* u64: memory held by its maps */
	BLKCBT_A_MAP_FALLBACKS,		/* u64: map pages that could not be had, region marked */
	BLKCBT_A_ESCAPES,		/* u64: writes the auditor found unmarked */
	BLKCBT_A_LATE,			/* u64: writes older than a commit, not judged */
	BLKCBT_A_PASSTHROUGH,		/* u64: driver-private commands that were marked */
	BLKCBT_A_PARKED,		/* u64: bios parked so far */
	BLKCBT_A_INFLIGHT,		/* u64: bio-based disks: writes under way */
	BLKCBT_A_EVENT,			/* u32, enum blkcbt_event */
	BLKCBT_A_ID,			/* u64: random number of this attachment */
	BLKCBT_A_OBSERVERS,		/* u32, BLKCBT_OBSERVER_* */
	BLKCBT_A_EPOCH_MODE,		/* u32, enum blkcbt_epoch_mode: in GET, of the open epoch */
	BLKCBT_A_BUDGET_BYTES,		/* u64: in GET, of the open epoch's cut */
	BLKCBT_A_PRESERVED_BYTES,	/* u64: held now, in the open epoch */
	BLKCBT_A_PRESERVES,		/* u64: granules preserved so far */
	BLKCBT_A_DOWNGRADES,		/* u64: epochs of this disk that became fuzzy */
	BLKCBT_A_DOWNGRADE_REASON,	/* string: why the last one did */
	BLKCBT_A_HELD,			/* u64: writes that waited for a cut or a hold */
	BLKCBT_A_HELD_MAX_NS,		/* u64: the longest that one of them waited */
	BLKCBT_A_HOLD_ID,		/* u64 */
	BLKCBT_A_HOLD_NS,		/* u64: how long this cut held writers; 0 within a hold */
	BLKCBT_A_DEADLINE_MS,		/* u32 */
	BLKCBT_A_HOLDS,			/* struct blkcbt_holds */
	BLKCBT_A_STORE_FD,		/* u32: an open file or block device */
	BLKCBT_A_IDENTITY,		/* binary, at most BLKCBT_IDENTITY_BYTES */
	BLKCBT_A_STORE_AWAITED,		/* flag */
	BLKCBT_A_STORE_EXTENT_BYTES,	/* u32 */
	BLKCBT_A_STORE_HOT_MAX,		/* u32: extents in use before some are retired */
	BLKCBT_A_STORE_STATE,		/* u32, enum blkcbt_store_state_id */
	BLKCBT_A_STORE_TRUSTED,		/* flag: the disk began with what its store said */
	BLKCBT_A_STORE_REASON,		/* string: why it failed, or was not trusted */
	BLKCBT_A_STORE_GENERATION,	/* u64: one more each time that it is opened */
	BLKCBT_A_STORE_HOT,		/* u64: extents in use */
	BLKCBT_A_STORE_WRITES,		/* u64: blocks written to the store so far */
	BLKCBT_A_STORE_PARKED,		/* u64: writes that waited for it so far */
	BLKCBT_A_STORE_RISK_BYTES,	/* u64: dirty after a power cut now, at most */
	BLKCBT_A_STORE_MEMORY_BYTES,	/* u64 */
	__BLKCBT_A_MAX,
	BLKCBT_A_MAX = __BLKCBT_A_MAX - 1
};

/**
 * enum blkcbt_gate_mode - how writes are seen
 * @BLKCBT_GATE_FULL: gate and auditor
 * @BLKCBT_GATE_AUDIT_ONLY: no ftrace gate (see the reason): tracepoints alone. A
 *	write is marked when the hardware gets it. Bio-based disks cannot be
 *	attached.
 * @BLKCBT_GATE_UNAUDITED: no tracepoint block_rq_issue: a write that goes round
 *	the gate is marked when it completes, and not counted as an escape
 * @BLKCBT_GATE_PARTIAL: another tracepoint is missing: one kind of disk, with or
 *	without requests, cannot be attached
 *
 * No mode tracks less: what cannot be tracked is refused. Where several apply,
 * it is the first in the order AUDIT_ONLY, UNAUDITED, PARTIAL;
 * %BLKCBT_A_OBSERVERS and the reason tell all of it.
 */
enum blkcbt_gate_mode {
	BLKCBT_GATE_FULL,
	BLKCBT_GATE_AUDIT_ONLY,
	BLKCBT_GATE_UNAUDITED,
	BLKCBT_GATE_PARTIAL,
};

#define BLKCBT_OBSERVER_GATE		(1u << 0) /* ftrace, submit_bio_noacct */
#define BLKCBT_OBSERVER_ISSUE		(1u << 1) /* tracepoint block_rq_issue */
#define BLKCBT_OBSERVER_COMPLETE	(1u << 2) /* tracepoint block_rq_complete */
#define BLKCBT_OBSERVER_BIO_COMPLETE	(1u << 3) /* tracepoint block_bio_complete */

enum blkcbt_epoch_state {
	BLKCBT_EPOCH_NONE,		/* nothing open: cut is possible */
	BLKCBT_EPOCH_OPEN,		/* cut, to be committed or aborted */
};

/**
 * enum blkcbt_epoch_mode - what an open epoch can be read as
 * @BLKCBT_MODE_FUZZY: the live disk
 * @BLKCBT_MODE_CONSISTENT: the image shows the granules of the epoch as they
 *	were at the cut, until they are released. A granule that the epoch does
 *	not hold, or that was released, can be read as well as long as it has not
 *	been written since; after that, reading it is an error, never other
 *	content.
 * @BLKCBT_MODE_SNAPSHOT: as CONSISTENT, but of every granule of the disk
 *
 * Without budget or memory, when preserving fails, or when a write comes that
 * the gate does not see, a consistent epoch becomes fuzzy, on all disks of its
 * cut (%BLKCBT_EVENT_DOWNGRADED): writers never wait for more. Its image then
 * gives errors. Whoever has read all of it asks GET for the mode: if it is still
 * CONSISTENT, all that was read is exact.
 */
enum blkcbt_epoch_mode {
	BLKCBT_MODE_FUZZY,
	BLKCBT_MODE_CONSISTENT,
	BLKCBT_MODE_SNAPSHOT,
};

/**
 * struct blkcbt_holds - how long cuts have held writers
 * @count: cuts and holds so far
 * @total_ns: of all of them
 * @max_ns: the longest
 * @bucket: how many lasted from 2^i up to 2^(i+1) ns; the last one: or longer
 */
struct blkcbt_holds {
	__u64 count;
	__u64 total_ns;
	__u64 max_ns;
	__u64 bucket[32];
};

#define BLKCBT_DISK_F_BIO_BASED	(1u << 0)	/* dm, md, brd: completion shim */
#define BLKCBT_DISK_F_GONE	(1u << 1)	/* the disk, or its medium, has been removed */
#define BLKCBT_DISK_F_RESIZED	(1u << 2)	/* size changed while tracked: detach, attach */
#define BLKCBT_DISK_F_UNSYNCED	(1u << 3)	/* no epoch committed since it was attached */
#define BLKCBT_DISK_F_DEGRADED	(1u << 4)	/* lacks an observer: see INFO */

/**
 * enum blkcbt_store_state_id - the store of a disk
 * @BLKCBT_STORE_ID_NONE: it has none: after a power cut everything is dirty
 * @BLKCBT_STORE_ID_AWAITED: it is to get one, and cannot be cut before
 * @BLKCBT_STORE_ID_ACTIVE: it is kept
 * @BLKCBT_STORE_ID_FAILED: it was given up (see the reason): tracking goes on, but
 *	after a power cut everything is dirty
 */
enum blkcbt_store_state_id {
	BLKCBT_STORE_ID_NONE,
	BLKCBT_STORE_ID_AWAITED,
	BLKCBT_STORE_ID_ACTIVE,
	BLKCBT_STORE_ID_FAILED,
};

/**
 * enum blkcbt_event - what a multicast message reports
 * @BLKCBT_EVENT_ATTACHED: a disk is tracked from now on
 * @BLKCBT_EVENT_DETACHED: a disk is no longer tracked
 * @BLKCBT_EVENT_ESCAPE: the auditor found a write that the gate had not marked
 *	(at most one a second for each disk)
 * @BLKCBT_EVENT_RESYNC: the whole disk was marked dirty, because the place of a
 *	write could not be known
 * @BLKCBT_EVENT_RESIZED: the size of a tracked disk changed
 * @BLKCBT_EVENT_DOWNGRADED: the open consistent epoch became fuzzy; comes with
 *	%BLKCBT_A_DOWNGRADE_REASON
 * @BLKCBT_EVENT_STORE: the state of its store changed; comes with
 *	%BLKCBT_A_STORE_STATE and %BLKCBT_A_STORE_REASON
 */
enum blkcbt_event {
	BLKCBT_EVENT_ATTACHED = 1,
	BLKCBT_EVENT_DETACHED,
	BLKCBT_EVENT_ESCAPE,
	BLKCBT_EVENT_RESYNC,
	BLKCBT_EVENT_RESIZED,
	BLKCBT_EVENT_DOWNGRADED,
	BLKCBT_EVENT_STORE,
};

/**
 * struct blkcbt_extent - one record read from the character device
 * @offset_bytes: start on the whole disk, a multiple of the granule
 * @length_bytes: a multiple of the granule, but at the end of the disk cut to
 *	the disk's size
 *
 * read() returns whole records, in ascending order, adjacent granules merged,
 * of the epoch that is open; 0 at the end. The position is the byte offset on
 * the disk from which to go on, so lseek(fd, offset, SEEK_SET) starts the
 * enumeration there. Errors: ENODATA no epoch is open; ESTALE the epoch that
 * this descriptor was reading is over; EINVAL the buffer is shorter than a
 * record; ENODEV detached. Opening needs CAP_SYS_ADMIN.
 *
 * write() of whole records releases their granules: they have been read through
 * the image, and need not be preserved any more. Only granules that lie wholly
 * in a record are released. Errors: as read(), and EINVAL for a record that is
 * empty or reaches beyond the disk. In a fuzzy epoch it does nothing.
 */
struct blkcbt_extent {
	__u64 offset_bytes;
	__u64 length_bytes;
};

#endif /* _UAPI_LINUX_BLKCBT_H */
