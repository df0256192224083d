// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * retention_volume: the verdict; see retention_volume.h. Pure. One small function for each criterion, in the order in
 * which an operator wants to hear of them.
 */
#include "retention_volume.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "conf.h"
#include "util.h"

#define TEXT_BYTES 600u
#define HOUR_MS 3600000u

/* Where verdicts are collected. */
struct verdict {
	const struct retention_facts *facts;
	const struct retention_demand *demand;
	enum retention_level level;
	json_t *checks;
	char *message, *remedy; /* may be NULL */
};

static const char *const level_names[] = { "good", "warning", "refused" };

const char *retention_level_name(enum retention_level level)
{
	return level_names[level];
}

/* A path may be no UTF-8, or cut within a character. */
static json_t *text_json(char *text)
{
	json_t *json = json_string(text);

	if (json)
		return json;
	for (char *at = text; *at; at++)
		if ((unsigned char)*at >= 0x80)
			*at = '?';
	return json_string(text);
}

__attribute__((format(printf, 5, 6))) static void say(struct verdict *verdict, const char *check,
						       enum retention_level level, const char *remedy,
						       const char *format, ...)
{
	char cause[TEXT_BYTES], text[TEXT_BYTES];
	va_list list;

	va_start(list, format);
	vsnprintf(cause, sizeof(cause), format, list);
	va_end(list);
	/* The path is bounded, so that a long one does not hide the cause. */
	if (snprintf(text, sizeof(text), "retention volume %.200s: %s", verdict->facts->path, cause) >= (int)sizeof(text))
		memcpy(text + sizeof(text) - 4, "...", 4);
	if (level > verdict->level) {
		verdict->level = level;
		if (verdict->message)
			snprintf(verdict->message, TEXT_BYTES, "%s", text);
		if (verdict->remedy)
			snprintf(verdict->remedy, TEXT_BYTES, "%s", remedy);
	}
	if (verdict->checks)
		json_array_append_new(verdict->checks,
				      json_pack("{s:s, s:s, s:o, s:s}", "check", check, "result", level_names[level],
						"message", text_json(text), "remedy", remedy));
}

static bool judge_directory(struct verdict *v)
{
	const char *remedy = "make an ext4 or xfs file system for it, mount it there, and write it into /etc/fstab";

	if (v->facts->look_error)
		say(v, "directory", RETENTION_REFUSED, "run this as root; check the mount (dmesg)",
		    "cannot look at it: %s", strerror(-v->facts->look_error));
	else if (!v->facts->exists)
		say(v, "directory", RETENTION_REFUSED, remedy, "it does not exist");
	else if (!v->facts->directory)
		say(v, "directory", RETENTION_REFUSED, remedy, "it is not a directory");
	else
		say(v, "directory", RETENTION_GOOD, "", "it is a directory");
	return v->level == RETENTION_GOOD;
}

static void judge_filesystem(struct verdict *v)
{
	if (v->facts->own_filesystem)
		say(v, "filesystem", RETENTION_GOOD, "", "it is on a file system of its own");
	else
		say(v, "filesystem", RETENTION_REFUSED,
		    "mount a file system of its own there (is it missing from /etc/fstab, or did its mount fail?), or "
		    "name another directory",
		    "it is on the root file system, which undo logs would fill");
}

static bool one_of(const char *type, const char *const *types)
{
	for (; *types; types++)
		if (!strcmp(type, *types))
			return true;
	return false;
}

static void judge_type(struct verdict *v)
{
	static const char *const fat[] = { "vfat", "msdos", "exfat", "ntfs", "ntfs3", "fuseblk", NULL };
	static const char *const memory[] = { "tmpfs", "ramfs", "devtmpfs", "hugetlbfs", NULL };
	static const char *const joined[] = { "overlay", "aufs", NULL };
	static const char *const remote[] = { "nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "fuse", NULL };
	const char *const type = v->facts->type, *const remedy = "use an ext4 or xfs file system for it";

	if (one_of(type, fat))
		say(v, "type", RETENTION_REFUSED, remedy,
		    "its file system is %s, which cannot preallocate files or keep holes in them", type);
	else if (one_of(type, memory))
		say(v, "type", RETENTION_REFUSED, remedy, "its file system is %s, which a restart empties", type);
	else if (one_of(type, joined))
		say(v, "type", RETENTION_REFUSED, remedy,
		    "its file system is %s, a union of others, which does not say where it writes", type);
	else if (one_of(type, remote) || !strncmp(type, "fuse.", 5))
		say(v, "type", RETENTION_WARNING, "use an ext4 or xfs file system on a disk of this machine",
		    "its file system is %s: every epoch waits for what is behind it", type);
	else if (!*type)
		say(v, "type", RETENTION_WARNING, remedy, "the type of its file system cannot be found");
	else
		say(v, "type", RETENTION_GOOD, "", "its file system is %s", type);
}

static void judge_read_write(struct verdict *v)
{
	if (v->facts->read_only)
		say(v, "read_write", RETENTION_REFUSED,
		    "mount it read-write (mount -o remount,rw); where it has become read-only by itself, check the disk "
		    "(dmesg) and the file system (fsck) first",
		    "it is mounted read-only");
	else
		say(v, "read_write", RETENTION_GOOD, "", "it is mounted read-write");
}

static void judge_write(struct verdict *v)
{
	int error = v->facts->write_error;

	if (!error)
		say(v, "write", RETENTION_GOOD, "", "a file can be made, allocated, written, synced and locked there");
	else if (error == -ENOSPC)
		say(v, "write", RETENTION_WARNING, "enlarge it, or keep less (policy, pinned points)",
		    "it is full: no file of a MiB can be made; the oldest points go first");
	else if (error == -EOPNOTSUPP)
		say(v, "write", RETENTION_REFUSED, "use an ext4 or xfs file system for it",
		    "its file system cannot allocate or lock files: %s", strerror(-error));
	else
		say(v, "write", RETENTION_REFUSED,
		    error == -EACCES || error == -EPERM ? "let root write there, or run this as root" :
		    error == -EDQUOT			 ? "raise the quota of root there" :
							   "check the disk (dmesg) and the file system (fsck)",
		    "no file can be made, allocated, written, synced and locked there: %s", strerror(-error));
}

static void judge_lock(struct verdict *v)
{
	char who[32] = "";

	if (v->facts->lock_owner)
		snprintf(who, sizeof(who), " (process %d)", (int)v->facts->lock_owner);
	if (!v->facts->locked)
		say(v, "lock", RETENTION_GOOD, "", "nobody else uses it");
	else if (v->facts->own_lock)
		say(v, "lock", RETENTION_GOOD, "", "it is in use by the master target on this machine%s", who);
	else
		say(v, "lock", RETENTION_REFUSED,
		    "stop the other master target (one for each volume), or name another directory",
		    "locked by another process%s: %.200s/" RETENTION_LOCK, who, v->facts->path);
}

static void judge_contents(struct verdict *v)
{
	if (*v->facts->holds)
		say(v, "contents", RETENTION_REFUSED,
		    "give undo logs a volume that has nothing else: they are of no use when they are lost together "
		    "with that, and fill its place",
		    "it holds %.300s", v->facts->holds);
	else
		say(v, "contents", RETENTION_GOOD, "", "it holds no target disk, spool, state or installation");
}

static void judge_capacity(struct verdict *v)
{
	char total[32], unused[32];

	conf_format_bytes(v->facts->bytes_total, total, sizeof(total));
	conf_format_bytes(v->facts->bytes_free, unused, sizeof(unused));
	if (!v->facts->bytes_total)
		say(v, "capacity", RETENTION_REFUSED, "use an ext4 or xfs file system for it", "it has no capacity (0 bytes)");
	else if (!v->facts->bytes_free)
		say(v, "capacity", RETENTION_WARNING, "enlarge it, or keep less (policy, pinned points)",
		    "it is full, all %s: the oldest points go first", total);
	else
		say(v, "capacity", RETENTION_GOOD, "", "it has %s, %s free", total, unused);
}

static uint64_t churn_in(uint64_t bytes_per_hour, uint64_t ms)
{
	unsigned __int128 bytes = (unsigned __int128)bytes_per_hour * ms / HOUR_MS;

	return bytes > UINT64_MAX ? UINT64_MAX : (uint64_t)bytes;
}

/* Without regard to max_bytes. */
static uint64_t wanted_bytes(const struct retention_demand *demand)
{
	uint64_t longer = demand->keep_all_ms > demand->keep_hourly_ms ? demand->keep_all_ms : demand->keep_hourly_ms;
	uint64_t bytes = churn_in(demand->churn_bytes_per_hour, longer);

	return bytes > UINT64_MAX - demand->churn_bytes_per_hour ? UINT64_MAX : bytes + demand->churn_bytes_per_hour;
}

uint64_t retention_demand_bytes(const struct retention_demand *demand)
{
	uint64_t bytes = wanted_bytes(demand);

	return demand->max_bytes && bytes > demand->max_bytes ? demand->max_bytes : bytes;
}

static void judge_policy(struct verdict *v)
{
	const struct retention_demand none = { 0 }, *demand = v->demand ? v->demand : &none;
	uint64_t need = retention_demand_bytes(demand);
	char churn[32], text[32], total[32];

	conf_format_bytes(demand->churn_bytes_per_hour, churn, sizeof(churn));
	conf_format_bytes(need, text, sizeof(text));
	conf_format_bytes(v->facts->bytes_total, total, sizeof(total));
	if (demand->max_bytes > v->facts->bytes_total)
		say(v, "policy", RETENTION_WARNING, "enlarge it, or lower the limit",
		    "the policy lets undo logs have %s, it has %s: the oldest points go before that",
		    conf_format_bytes(demand->max_bytes, text, sizeof(text)), total);
	else if (!demand->churn_bytes_per_hour)
		say(v, "policy", RETENTION_GOOD, "", "whether it is large enough will be known when changes have arrived "
						      "for an hour");
	else if (need > v->facts->bytes_total)
		say(v, "policy", RETENTION_WARNING, "enlarge it, or keep points for a shorter time",
		    "at %s changed an hour the policy needs up to %s, it has %s: the oldest points go before their time",
		    churn, text, total);
	else if (wanted_bytes(demand) > need)
		say(v, "policy", RETENTION_GOOD, "",
		    "at %s changed an hour the policy's limit of %s may end points before their time", churn, text);
	else
		say(v, "policy", RETENTION_GOOD, "", "at %s changed an hour the policy needs up to %s", churn, text);
}

enum retention_level retention_volume_judge(const struct retention_facts *facts, const struct retention_demand *demand,
					    json_t **checks, char *message, char *remedy)
{
	struct verdict v = { .facts = facts, .demand = demand, .message = message, .remedy = remedy };

	if (message)
		*message = 0;
	if (remedy)
		*remedy = 0;
	if (checks)
		v.checks = json_array();
	if (judge_directory(&v)) {
		judge_filesystem(&v);
		judge_type(&v);
		judge_read_write(&v);
		if (!facts->read_only) /* else it says the same again */
			judge_write(&v);
		judge_lock(&v);
		judge_contents(&v);
		judge_capacity(&v);
		if (facts->bytes_total)
			judge_policy(&v);
	}
	if (checks)
		*checks = v.checks;
	return v.level;
}
