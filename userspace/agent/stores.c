// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * stores: the crash-safe stores of the group's disks. Finds or makes the file, gives it to the kernel with
 * the disk, remembers the least generation that may be believed, and tells early boot where the
 * store lies. Called by disks.c, agent.c, failback.c, early.c and status.c.
 *
 *	configured      where
 *	none            no store: after a restart the whole disk is compared again
 *	auto            NAME.store in the state directory
 *	a path          a block device, or a file on ext4 or xfs
 *
 * A store is made only in a file that is not there, in one of zeros, or in place of one that was this disk's
 * and does not fit it any more. Whatever else is found is left alone.
 *
 *	state in the kernel   what is done
 *	awaited               early boot has attached the disk: the store is added, or dropped if there is none
 *	none                  a new one is added, once a minute
 *	failed                whatever that one says is not true any more: its generation is refused from now on.
 *	                      It is dropped and made anew after ten minutes
 *
 * Nothing about a store keeps a disk from being replicated.
 */
#include "stores.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include <xxhash.h>

#include "log.h"
#include "store.h"
#include "util.h"

#define RETRY_MS 60000u
#define RETRY_FAILED_MS 600000u
#define CHUNK_BYTES (1u << 20)

static bool is_auto(const struct agent_disk *disk)
{
	return !strcmp(disk->store.wanted, "auto");
}

bool stores_wanted(const struct agent_disk *disk)
{
	return disk->store.wanted[0] && strcmp(disk->store.wanted, "none") != 0;
}

void stores_path(const struct agent *agent, const struct agent_disk *disk, char out[PATH_MAX])
{
	if (is_auto(disk))
		snprintf(out, PATH_MAX, "%s/%s.store", agent->config.state_dir, disk->name);
	else
		snprintf(out, PATH_MAX, "%s", disk->store.wanted);
}

static void __attribute__((format(printf, 4, 5)))
problem(struct agent *agent, struct agent_disk *disk, const char *remedy, const char *format, ...)
{
	char text[AGENT_TEXT_BYTES], path[PATH_MAX];
	va_list list;

	va_start(list, format);
	vsnprintf(text, sizeof(text), format, list);
	va_end(list);
	stores_path(agent, disk, path);
	agent_problem_set(&disk->store.problem, remedy, "disk %s: store %.120s: %s; a power cut would cost a resync",
			  disk->name, path, text);
}

/* Whose store it is. */

static const char *base_of(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* The disk that has the remembered names is still this one: so is its name in its store. */
static bool same_disk(const struct agent_disk *disk, dev_t dev)
{
	char found[224];
	dev_t its = 0;

	return disk_names_any(&disk->names) &&
	       !disk_names_resolve(&disk->names, NULL, &its, found, sizeof(found)) && its == dev;
}

/* What the disk is called in its store; before its names are looked up anew. */
static void identify(struct agent_disk *disk, dev_t dev)
{
	struct disk_names names;
	char name[256];

	if (disk->store.identity[0] && same_disk(disk, dev))
		return;
	disk_names_of(DISK_NAMES_DIRECTORY, disk->device, &names);
	if (names.by_id[0])
		snprintf(name, sizeof(name), "%s", base_of(names.by_id));
	else if (names.ptuuid[0])
		snprintf(name, sizeof(name), "PTUUID=%s", names.ptuuid);
	else if (names.uuid[0])
		snprintf(name, sizeof(name), "UUID=%s", names.uuid);
	else
		snprintf(name, sizeof(name), "%s", names.by_path[0] ? base_of(names.by_path) : disk->device);
	if (strlen(name) > BLKCBT_IDENTITY_BYTES)
		snprintf(name, sizeof(name), "XXH3=%016" PRIx64, (uint64_t)XXH3_64bits(name, strlen(name)));
	if (strcmp(name, disk->store.identity) != 0)
		disk->store.generation = 0; /* of another disk's store */
	memcpy(disk->store.identity, name, sizeof(disk->store.identity));
	disk->store.identity[sizeof(disk->store.identity) - 1] = '\0';
}

/* Making one. */

static int fill(int fd, uint64_t bytes)
{
	static const char zeros[CHUNK_BYTES];

	/* All of it is written: an allocated and unwritten block has no place yet, as the kernel sees it. */
	for (uint64_t at = 0; at < bytes;) {
		size_t chunk = bytes - at < sizeof(zeros) ? (size_t)(bytes - at) : sizeof(zeros);
		ssize_t written = pwrite(fd, zeros, chunk, (off_t)at);

		if (written < 0 && errno == EINTR)
			continue;
		if (written <= 0)
			return written ? -errno : -ENOSPC;
		at += (uint64_t)written;
	}
	return fsync(fd) < 0 ? -errno : 0;
}

static int make_file(const char *path, uint64_t bytes)
{
	int rc;

	if (unlink(path) < 0 && errno != ENOENT)
		return -errno;
	CLEANUP_FD int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	rc = -posix_fallocate(fd, 0, (off_t)bytes); /* in one piece, if that can be had */
	if (!rc)
		rc = fill(fd, bytes);
	if (rc)
		unlink(path);
	return rc;
}

static int disk_bytes(const struct agent_disk *disk, uint64_t *bytes)
{
	CLEANUP_FD int fd = open(disk->device, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	off_t end = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);

	*bytes = end < 0 ? 0 : (uint64_t)end;
	return end < 0 ? -errno : 0;
}

/* What stands there. Around the page cache: the kernel writes stores so. */
static int look(const char *path, const struct store_disk *asked, char *why, size_t why_bytes)
{
	CLEANUP_FD int fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);

	why[0] = '\0';
	return fd < 0 ? -errno : store_look(fd, 0, asked, why, why_bytes);
}

/* A place for a store, that has none: @bytes of it. 0, or the problem is set. */
static int make_place(struct agent *agent, struct agent_disk *disk, const char *path, uint64_t bytes)
{
	struct stat status;
	int rc;

	if (!stat(path, &status) && S_ISBLK(status.st_mode))
		return 0; /* the kernel says if it is too small */
	rc = make_file(path, bytes);
	if (rc)
		problem(agent, disk, "make room, or name another place with store =", "cannot be made: %s",
			strerror(-rc));
	return rc;
}

/* Find the store, or a place where one can be made (@make is set). 0, or the problem is set. */
static int find(struct agent *agent, struct agent_disk *disk, const char *path, bool *make)
{
	struct store_disk asked = { .identity = disk->store.identity, .granule_bytes = disk->granule_bytes };
	uint64_t bytes;
	struct stat status;
	char why[256];
	int rc;

	*make = false;
	rc = disk_bytes(disk, &asked.size_bytes);
	bytes = rc ? 0 : store_bytes(asked.size_bytes, disk->granule_bytes);
	if (!bytes) {
		problem(agent, disk, NULL, "no store can be made for this disk");
		return -EINVAL;
	}
	if (stat(path, &status) < 0 && errno == ENOENT && strncmp(path, "/dev/", 5) != 0) {
		*make = true;
		return make_place(agent, disk, path, bytes);
	}
	rc = look(path, &asked, why, sizeof(why));
	switch (rc) {
	case STORE_OWN:
		return 0;
	case STORE_BLANK:
	case STORE_UNFIT:
		break;
	case STORE_DAMAGED:
		if (is_auto(disk))
			break;
		/* fall through */
	default:
		problem(agent, disk,
			rc == STORE_FOREIGN ? "name the right one; or remove the file, and one is made anew" :
					      "name another place; or remove it, if nobody needs it, or fill it with zeros",
			"cannot be used: %s", rc < 0 ? strerror(-rc) : why[0] ? why : "it holds something else");
		return rc < 0 ? rc : -EEXIST;
	}
	*make = true;
	if (!stat(path, &status) && S_ISREG(status.st_mode) && (uint64_t)status.st_size >= bytes && rc == STORE_BLANK)
		return 0;
	return make_place(agent, disk, path, bytes);
}

/* The store as the kernel takes it, made if need be. 0, and ask->fd is the caller's; or the problem is set. */
static int take(struct agent *agent, struct agent_disk *disk, dev_t dev, struct cbt_store *ask)
{
	const struct tracker_ops *ops = agent->tracker_ops;
	char path[PATH_MAX];
	bool make;
	int rc;

	stores_path(agent, disk, path);
	identify(disk, dev);
	rc = find(agent, disk, path, &make);
	if (rc)
		return rc;
	/* Not for writing: nobody is to find the file system busy with a writer. */
	ask->fd = open(path, O_RDONLY | O_CLOEXEC);
	if (ask->fd < 0) {
		rc = -errno;
		problem(agent, disk, NULL, "cannot be opened: %s", strerror(-rc));
		return rc;
	}
	snprintf(ask->identity, sizeof(ask->identity), "%s", disk->store.identity);
	ask->generation_min = make ? 0 : disk->store.generation;
	if (!make)
		return 0;
	rc = ops->store_format(agent->tracker, dev, ask, disk->granule_bytes);
	if (!rc) {
		disk->store.generation = 0;
		log_notice("disk %s: store made: %s", disk->name, path);
		return 0;
	}
	problem(agent, disk, "name another place with store =: a partition, a volume, or a file on ext4 or xfs",
		"cannot be made: %s", ops->error(agent->tracker));
	close(ask->fd);
	ask->fd = -1;
	return rc;
}

/* Where it lies. */

/* The first block of a file, as a place on the file system's device. */
static bool file_place(int fd, const struct stat *status, struct agent_store *store)
{
	union {
		struct fiemap map;
		char room[sizeof(struct fiemap) + sizeof(struct fiemap_extent)];
	} request = { .map = { .fm_length = STORE_SUPER_BYTES, .fm_extent_count = 1 } };
	const struct fiemap_extent *extent = &request.map.fm_extents[0];
	const uint32_t odd = FIEMAP_EXTENT_UNKNOWN | FIEMAP_EXTENT_DELALLOC | FIEMAP_EXTENT_ENCODED |
			     FIEMAP_EXTENT_NOT_ALIGNED | FIEMAP_EXTENT_UNWRITTEN | FIEMAP_EXTENT_SHARED;

	if (ioctl(fd, FS_IOC_FIEMAP, &request.map) < 0 || request.map.fm_mapped_extents != 1 ||
	    extent->fe_logical || extent->fe_length < STORE_SUPER_BYTES || extent->fe_flags & odd)
		return false;
	store->offset_bytes = extent->fe_physical;
	return disk_names_device(DISK_NAMES_DIRECTORY, status->st_dev, store->device, sizeof(store->device));
}

static void locate(struct agent *agent, struct agent_disk *disk)
{
	struct agent_store *store = &disk->store;
	struct stat status;
	char path[PATH_MAX];
	bool found = false;

	stores_path(agent, disk, path);
	CLEANUP_FD int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	store->device[0] = '\0';
	store->offset_bytes = 0;
	if (fd >= 0 && !fstat(fd, &status)) {
		if (S_ISREG(status.st_mode))
			found = file_place(fd, &status, store);
		else if (S_ISBLK(status.st_mode))
			found = disk_names_device(DISK_NAMES_DIRECTORY, status.st_rdev, store->device,
						  sizeof(store->device));
	}
	if (found)
		return;
	store->device[0] = '\0';
	log_warning("disk %s: store %s: early boot cannot find it there: after a restart the whole disk is "
		    "compared again (use a partition, or a file on ext4 or xfs)",
		    disk->name, path);
}

/* Calls of the kernel. */

/* The kernel has answered with @info: is the store kept? */
static void judged(struct agent *agent, struct agent_disk *disk, const struct cbt_disk *info)
{
	struct agent_store *store = &disk->store;

	if (info->store_state != BLKCBT_STORE_ID_ACTIVE) {
		problem(agent, disk, "see the kernel log: dmesg | grep blkcbt", "not kept: %s",
			info->store_reason[0] ? info->store_reason : "the kernel does not say why");
		return;
	}
	agent_problem_clear(&store->problem);
	if (info->store_trusted)
		log_notice("disk %s: its store is exact: %" PRIu64 " bytes are to be sent", disk->name,
			   info->dirty_bytes);
	else if (info->store_reason[0])
		log_notice("disk %s: its store is not believed, all of it is dirty: %s", disk->name,
			   info->store_reason);
	store->generation = info->store_generation;
	locate(agent, disk);
}

static int add(struct agent *agent, struct agent_disk *disk, dev_t dev, struct cbt_disk *info)
{
	const struct tracker_ops *ops = agent->tracker_ops;
	struct cbt_store ask = { .fd = -1 };
	int rc = take(agent, disk, dev, &ask);

	if (rc)
		return rc;
	rc = ops->store_add(agent->tracker, dev, &ask, info);
	close(ask.fd);
	if (rc == -EOPNOTSUPP)
		problem(agent, disk, "it gets one at the next restart, or when it is detached and attached again",
			"cannot be added now: %s", ops->error(agent->tracker));
	else if (rc)
		problem(agent, disk, NULL, "cannot be added: %s", ops->error(agent->tracker));
	else
		judged(agent, disk, info);
	return rc;
}

/* A disk that awaits its store still gets none: all of it is dirty. */
static int do_without(struct agent *agent, struct agent_disk *disk, dev_t dev)
{
	const struct tracker_ops *ops = agent->tracker_ops;
	int rc;

	if (disk->info.store_state != BLKCBT_STORE_ID_AWAITED)
		return 0;
	log_warning("disk %s: has no store: all of it is dirty", disk->name);
	rc = ops->store_drop(agent->tracker, dev);
	return rc ? rc : ops->get(agent->tracker, dev, &disk->info);
}

/* A disk that was tracked before; disk->info says how. */
static int adopt(struct agent *agent, struct agent_disk *disk, dev_t dev)
{
	if (disk->info.store_state == BLKCBT_STORE_ID_ACTIVE) {
		identify(disk, dev);
		disk->store.generation = disk->info.store_generation;
		if (!disk->store.device[0])
			locate(agent, disk);
	} else if (disk->info.store_state == BLKCBT_STORE_ID_AWAITED && stores_wanted(disk)) {
		struct cbt_disk info;

		if (!add(agent, disk, dev, &info))
			disk->info = info;
	}
	return do_without(agent, disk, dev);
}

int stores_attach(struct agent *agent, struct agent_disk *disk, dev_t dev)
{
	const struct tracker_ops *ops = agent->tracker_ops;
	struct cbt_store ask = { .fd = -1 };
	bool wanted = stores_wanted(disk), have;
	int rc;

	disk->store.retry_ms = util_now_ms() + RETRY_MS;
	if (!ops->get(agent->tracker, dev, &disk->info))
		return adopt(agent, disk, dev);
	have = wanted && !take(agent, disk, dev, &ask);
	/* Awaiting one that is not to be had: so that one can be added later. */
	rc = ops->attach(agent->tracker, disk->device, dev, disk->granule_bytes, wanted ? &ask : NULL, &disk->info);
	if (ask.fd >= 0)
		close(ask.fd);
	if (!rc && have)
		judged(agent, disk, &disk->info);
	return rc ? rc : do_without(agent, disk, dev);
}

void stores_forget(struct agent_disk *disk)
{
	if (disk->store.generation <= disk->info.store_generation)
		disk->store.generation = disk->info.store_generation + 1;
	agent_problem_clear(&disk->store.problem);
}

void stores_let_go(struct agent *agent)
{
	const struct tracker_ops *ops = agent->tracker_ops;

	for (size_t i = 0; i < agent->disk_count; i++) {
		struct agent_disk *disk = &agent->disks[i];

		if (!disk->active || disk->info.store_state == BLKCBT_STORE_ID_NONE)
			continue;
		if (ops->store_drop(agent->tracker, disk->dev))
			log_warning("disk %s: its store cannot be let go: %s", disk->name, ops->error(agent->tracker));
		disk->store.retry_ms = util_now_ms() + RETRY_MS;
	}
}

static void failed(struct agent *agent, struct agent_disk *disk, uint64_t now_ms)
{
	if (disk->store.generation <= disk->info.store_generation) {
		disk->store.generation = disk->info.store_generation + 1;
		disk->store.retry_ms = now_ms + RETRY_FAILED_MS;
		problem(agent, disk, "check its device (dmesg); it is made anew in ten minutes", "given up: %s",
			disk->info.store_reason);
		state_save(agent);
	}
	if (now_ms < disk->store.retry_ms)
		return;
	disk->store.retry_ms = now_ms + RETRY_FAILED_MS;
	if (agent->tracker_ops->store_drop(agent->tracker, disk->dev))
		problem(agent, disk, NULL, "cannot be let go: %s", agent->tracker_ops->error(agent->tracker));
	else
		disk->store.retry_ms = now_ms;
}

void stores_tick(struct agent *agent, uint64_t now_ms)
{
	if (agent->frozen || failback_active(agent) || !agent->tracker || agent->released)
		return;
	for (size_t i = 0; i < agent->disk_count; i++) {
		struct agent_disk *disk = &agent->disks[i];
		struct cbt_disk info;

		if (!disk->active || !stores_wanted(disk))
			continue;
		if (disk->info.store_state == BLKCBT_STORE_ID_FAILED) {
			failed(agent, disk, now_ms);
		} else if (disk->info.store_state == BLKCBT_STORE_ID_NONE && now_ms >= disk->store.retry_ms) {
			disk->store.retry_ms = now_ms + RETRY_MS;
			if (!add(agent, disk, disk->dev, &info)) {
				disk->info = info;
				state_save(agent);
			}
		}
	}
}

json_t *stores_json(const struct agent *agent, const struct agent_disk *disk)
{
	const struct cbt_disk *info = &disk->info;
	char path[PATH_MAX] = "";
	json_t *json;

	if (stores_wanted(disk))
		stores_path(agent, disk, path);
	json = json_pack("{s:s, s:s, s:b, s:I}", "state", cbt_store_state_name(info->store_state), "path", path,
			 "trusted", info->store_trusted, "risk_bytes", (json_int_t)info->store_risk_bytes);
	if (info->store_reason[0])
		json_object_set_new(json, "reason", json_string(info->store_reason));
	if (info->store_state == BLKCBT_STORE_ID_ACTIVE)
		json_object_update_new(
			json, json_pack("{s:I, s:I, s:I, s:I, s:I}", "generation", (json_int_t)info->store_generation,
					"hot_extents", (json_int_t)info->store_hot, "writes",
					(json_int_t)info->store_writes, "parked", (json_int_t)info->store_parked,
					"memory_bytes", (json_int_t)info->store_memory_bytes));
	return json;
}
