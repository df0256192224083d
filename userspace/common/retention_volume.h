/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * retention_volume: whether a directory is fit to hold undo logs. Called by the master target at start and whenever it
 * opens a log, and by reprotect preflight retention. Facts are gathered (retention_look.c: statvfs, mountinfo, sysfs),
 * then judged by a pure function.
 *
 *	check		good when							else
 *	------------------------------------------------------------------------------------------------
 *	directory	it exists and is one						refused, nothing else is judged
 *	filesystem	not that of / (a mount point, or below one)			refused
 *	type		not FAT or NTFS (no sparse or preallocated files), nor one in	refused
 *			memory, nor a union
 *			not over a network or in a process				warning
 *	read_write	mounted so							refused
 *	write		a file can be made, allocated, written, synced and locked	refused; full: warning
 *	lock		no other master target has <path>/lock				refused
 *	contents	no target disk (an image file on it, or the disk that it lies	refused
 *			on), spool, state directory or installation (/usr, /boot)
 *	capacity	above zero							refused; nothing free: warning
 *	policy		enough for it at the measured churn				warning
 */
#ifndef REPROTECT_RETENTION_VOLUME_H
#define REPROTECT_RETENTION_VOLUME_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define RETENTION_PATH_DEFAULT "/mnt/retention"
#define RETENTION_LOCK "lock" /* file in it that the master target has locked (lock.h) while it runs */

/**
 * struct retention_facts - what was found
 * @path: as configured
 * @exists, @directory, @own_filesystem, @read_only: of it
 * @look_error: negative errno of looking at it, when that is not ENOENT
 * @type: of the file system, as /proc/self/mountinfo has it
 * @write_error: negative errno of trying to make, allocate, write, sync and lock a file, 0: fine
 * @locked: somebody has <path>/lock; @lock_owner: process, 0: not known; @own_lock: see struct retention_others
 * @bytes_total, @bytes_free: of the file system, for root
 * @holds: what lies on it that must not: a text ("target disk /dev/sdb", "the spool /var/..."), or ""
 */
struct retention_facts {
	char path[4096];
	bool exists, directory, own_filesystem, read_only, locked, own_lock;
	int look_error;
	char type[32];
	int write_error;
	pid_t lock_owner;
	uint64_t bytes_total, bytes_free;
	char holds[512];
};

/**
 * struct retention_others - what must lie elsewhere; NULL-terminated lists of paths, may be NULL
 * @targets: devices and image files, also such that are not there yet
 * @directories: spool, state
 * @own_lock: the lock may be taken, by the asker itself or by the master target that told it that it uses this volume
 */
struct retention_others {
	const char *const *targets, *const *directories;
	bool own_lock;
};

/** struct retention_demand - what the policy needs at the measured churn; churn 0: not known yet */
struct retention_demand {
	uint64_t churn_bytes_per_hour, keep_all_ms, keep_hourly_ms, max_bytes;
};

enum retention_level { RETENTION_GOOD, RETENTION_WARNING, RETENTION_REFUSED };

/**
 * retention_volume_look - gather the facts
 * Leaves nothing behind on the volume. Blocks as long as the file system does. Looks at <path>/lock by locking it
 * (shared) for an instant. @others may be NULL.
 */
void retention_volume_look(const char *path, const struct retention_others *others, struct retention_facts *facts);
/**
 * retention_volume_judge - pure
 * @demand: may be NULL
 * @checks: NULL or gets an array of {"check","result" ("good","warning","refused"),"message","remedy"}, one for each
 * criterion, in the order of the table above; NULL when memory is out
 * @message, @remedy: of the first of the worst, at least 600 bytes each (may be NULL); "" when all is good
 */
enum retention_level retention_volume_judge(const struct retention_facts *facts, const struct retention_demand *demand,
					    json_t **checks, char *message, char *remedy);
/** retention_level_name - as in @checks */
const char *retention_level_name(enum retention_level level);
/**
 * retention_demand_bytes - how much the policy is expected to need (0: not known)
 * What changes in the longer of the two times, as if no block changed twice, and an hour more for merging; max_bytes
 * at most.
 */
uint64_t retention_demand_bytes(const struct retention_demand *demand);

#endif
