// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * target: the checks before a target is opened, in the order in which an operator wants to
 * hear of them, and the open itself: exclusive, direct. See target.h.
 */
#include <blkid/blkid.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>

#include "conf.h"
#include "io.h"
#include "log.h"
#include "target.h"
#include "util.h"

#define REFUSE(remedy, cause, ...)                                                                \
	fault_set(fault, -1, "target-refused", true, remedy, "disk %s/%s: cannot use target %s: " cause, \
		  request->machine, request->disk, request->path, ##__VA_ARGS__)

static uint64_t round_up(uint64_t value, uint64_t align)
{
	return (value + align - 1) / align * align;
}

/*
 * An image file appears under its name only when it has its size and is durable, so that
 * a crash leaves either none or a good one.
 */
static int create_image(const struct target_request *request, struct fault *fault)
{
	const char *remedy = "check space and permissions of target_dir, or create the image file by hand";
	CLEANUP_FREE char *dir = strdup(request->path);
	CLEANUP_FREE char *temporary = NULL;
	CLEANUP_FD int fd = -1;
	CLEANUP_FD int dir_fd = -1;
	int r;

	if (!dir || asprintf(&temporary, "%s.new", request->path) < 0) {
		temporary = NULL;
		return REFUSE("free memory on this machine", "out of memory");
	}
	*strrchr(dir, '/') = 0;
	r = util_mkdirs(dir);
	if (r)
		return REFUSE(remedy, "cannot create directory %s: %s", dir, strerror(-r));
	fd = open(temporary, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, (off_t)round_up(request->source_bytes, 4096)) < 0 || fsync(fd) < 0 ||
	    renameat2(AT_FDCWD, temporary, AT_FDCWD, request->path, RENAME_NOREPLACE) < 0) {
		r = errno;
		unlink(temporary);
		return REFUSE(remedy, "cannot create an image file of %llu bytes: %s",
			      (unsigned long long)request->source_bytes, strerror(r));
	}
	dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir_fd < 0 || fsync(dir_fd) < 0)
		return REFUSE(remedy, "cannot make its directory entry durable: %s", strerror(errno));
	log_notice("disk %s/%s: created image file %s (%llu bytes, sparse)", request->machine, request->disk,
		   request->path, (unsigned long long)request->source_bytes);
	return 0;
}

static int cannot_open(const struct target_request *request, int error, struct fault *fault)
{
	if (error == EBUSY)
		return REFUSE("find who has it open exclusively (lsblk, lsof, fuser) and end that, or "
			      "name another target",
			      "it is held by the kernel or by another program");
	if (error == EROFS || error == EACCES || error == EPERM)
		return REFUSE("make it writable (blockdev --setrw, permissions, remount), or name "
			      "another target",
			      "it is read-only: %s", strerror(error));
	return REFUSE("check the device or file (dmesg), or name another target",
		      "cannot open: %s", strerror(error));
}

/* From here on a block device is ours; a file once it is locked. */
static int open_claim(struct target *target, const struct target_request *request, struct fault *fault)
{
	target->claim = open(request->path, O_CLOEXEC | (target->block ? O_RDONLY | O_EXCL : O_RDWR));
	if (target->claim < 0)
		return cannot_open(request, errno, fault);
	if (fstat(target->claim, &target->st) < 0)
		return REFUSE("check the device (dmesg)", "cannot look at it: %s", strerror(errno));
	return 0;
}

/* Direct where the file system can, and how it has to be aligned. */
static int open_direct(struct target *target, const struct target_request *request, struct fault *fault)
{
	int logical = 0;
	struct stat st;

	target->fd = open(request->path, O_RDWR | O_DIRECT | O_CLOEXEC);
	if (target->fd < 0 && errno == EINVAL) {
		target->fd = open(request->path, O_RDWR | O_CLOEXEC);
		if (target->fd >= 0)
			log_warning("disk %s/%s: target %s: its file system has no direct I/O; going through "
				    "the page cache (slower)",
				    request->machine, request->disk, request->path);
	}
	if (target->fd < 0)
		return cannot_open(request, errno, fault);
	if (fstat(target->fd, &st) < 0)
		return REFUSE("check the device (dmesg)", "cannot look at it: %s", strerror(errno));
	if (st.st_dev != target->st.st_dev || st.st_ino != target->st.st_ino || st.st_rdev != target->st.st_rdev)
		return REFUSE("let nobody replace it while it is a target", "it was just replaced by another one");
	if (target->block) {
		if (ioctl(target->fd, BLKSSZGET, &logical) < 0 || logical < 512 || logical > 1024 * 1024)
			return REFUSE("check the device (dmesg)", "cannot learn its sector size: %s",
				      strerror(errno));
		target->align = (uint32_t)logical;
		return 0;
	}
	CLEANUP_FREE void *probe = io_buffer_alloc(4096);

	/* A file may want the sectors of the disk under its file system. */
	target->align = probe && (pread(target->fd, probe, 512, 0) >= 0 || errno != EINVAL) ? 512 : 4096;
	return 0;
}

/* What libblkid finds at first use: somebody else's content. */
static int check_signature(const struct target_request *request, struct fault *fault)
{
	CLEANUP_FD int fd = open(request->path, O_RDONLY | O_CLOEXEC);
	blkid_probe probe = fd < 0 ? NULL : blkid_new_probe();
	const char *type = NULL, *label = NULL;
	int r = -1;

	if (probe && blkid_probe_set_device(probe, fd, 0, 0) == 0) {
		blkid_probe_enable_superblocks(probe, 1);
		blkid_probe_set_superblocks_flags(probe, BLKID_SUBLKS_TYPE | BLKID_SUBLKS_LABEL);
		blkid_probe_enable_partitions(probe, 1);
		r = blkid_do_safeprobe(probe);
	}
	if (r == 0) {
		bool table = blkid_probe_lookup_value(probe, "TYPE", &type, NULL) != 0;

		if (table)
			blkid_probe_lookup_value(probe, "PTTYPE", &type, NULL);
		blkid_probe_lookup_value(probe, "LABEL", &label, NULL);
		REFUSE("if its content may be destroyed, write overwrite = yes in its [target] section "
		       "(or wipefs -a it); else name another target",
		       "first use, and it carries %s%s%s%s%s", table ? "a partition table, " : "a signature, ",
		       type ? type : "unknown", label ? ", labelled \"" : "", label ? label : "",
		       label ? "\"" : "");
	} else if (r == -2) {
		REFUSE("if its content may be destroyed, write overwrite = yes in its [target] section "
		       "(or wipefs -a it); else name another target",
		       "first use, and it carries several signatures at once");
	} else if (r < 0) {
		REFUSE("check the device (dmesg); overwrite = yes skips this check",
		       "cannot look for signatures on it");
	}
	if (probe)
		blkid_free_probe(probe);
	return r == 1 ? 0 : -1;
}

static int check_kind(struct target *target, const struct target_request *request, struct fault *fault)
{
	if (stat(request->path, &target->st) < 0)
		return REFUSE("check the cable, the path in the [target] section, or set create = yes for image "
			      "files",
			      "%s", errno == ENOENT ? "it is missing" : strerror(errno));
	target->block = S_ISBLK(target->st.st_mode);
	if (!target->block && !S_ISREG(target->st.st_mode))
		return REFUSE("name a disk or an image file in the [target] section",
			      "it is neither a block device nor a regular file");
	return 0;
}

static int check_use(const struct target *target, const struct target_request *request, struct fault *fault)
{
	char who[400];
	const char *remedy = NULL;
	int r = target_in_use(target->claim, &target->st, who, sizeof(who), &remedy);

	if (r < 0)
		return REFUSE("check the device (dmesg)", "cannot find out who uses it: %s", strerror(-r));
	if (r > 0)
		return REFUSE(remedy, "%s", who);
	return 0;
}

static int check_place(const struct target *target, const struct target_request *request,
		       struct fault *fault)
{
	if (!target->block)
		return 0;
	if (target_shares_disk(target->st.st_rdev, "/"))
		return REFUSE("name a disk that holds nothing of this machine",
			      "the root file system of this machine is on the same disk");
	if (target_shares_disk(target->st.st_rdev, request->state_dir))
		return REFUSE("name another disk, or move the state directory",
			      "the state directory %s is on the same disk", request->state_dir);
	return 0;
}

static int check_size(struct target *target, const struct target_request *request, struct fault *fault)
{
	uint64_t wanted = round_up(request->source_bytes, target->align);
	char have[32], want[32];
	int read_only = 0;

	if (target->block && ioctl(target->fd, BLKROGET, &read_only) == 0 && read_only)
		return REFUSE("make it writable (blockdev --setrw), or name another target", "it is read-only");
	int r = util_device_bytes(target->fd, &target->bytes);

	if (r)
		return REFUSE("check the device (dmesg)", "cannot learn its size: %s", strerror(-r));
	if (target->bytes < wanted && !target->block && target->created) {
		if (ftruncate(target->fd, (off_t)wanted) < 0 || fsync(target->fd) < 0)
			return REFUSE("free space on its file system", "cannot grow it to %llu bytes: %s",
				      (unsigned long long)wanted, strerror(errno));
		log_notice("disk %s/%s: grew image file %s to %llu bytes, as the source has", request->machine,
			   request->disk, request->path, (unsigned long long)wanted);
		target->bytes = wanted;
	}
	if (target->bytes < wanted)
		return REFUSE("name a target at least as large as the source disk",
			      "it is too small: %llu bytes (%s), the source has %llu (%s)",
			      (unsigned long long)target->bytes,
			      conf_format_bytes(target->bytes, have, sizeof(have)), (unsigned long long)wanted,
			      conf_format_bytes(wanted, want, sizeof(want)));
	return 0;
}

static int check_identity(struct target *target, const struct target_request *request,
			  struct fault *fault)
{
	char why[300];

	if (!target->identity)
		return REFUSE("free memory on this machine", "out of memory");
	if (!request->known ||
	    target_identity_same(request->known->identity, target->identity, why, sizeof(why)))
		return 0;
	return REFUSE("connect the right disk; or, to begin anew on this one: reprotect target forget "
		      "<machine>, then resync",
		      "it is not the one that was used before: %s", why);
}

static int try_open(struct target *target, const struct target_request *request, struct fault *fault)
{
	if (request->path[0] != '/')
		return REFUSE("write its full name in the [target] section", "not an absolute path");
	if (request->create && access(request->path, F_OK) < 0 && errno == ENOENT) {
		if (request->known)
			return REFUSE("restore the image file; or, to begin anew: reprotect target forget "
				      "<machine>, then resync",
				      "the image file that held the disk is missing");
		if (create_image(request, fault))
			return -1;
		target->created = true;
	}
	if (check_kind(target, request, fault))
		return -1;
	if (target->block && (check_use(target, request, fault) || check_place(target, request, fault)))
		return -1;
	if (open_claim(target, request, fault))
		return -1;
	if (!target->block && check_use(target, request, fault))
		return -1;
	if (open_direct(target, request, fault))
		return -1;
	if (check_size(target, request, fault))
		return -1;
	target->identity = target_identity(target->fd, &target->st, target->bytes);
	if (check_identity(target, request, fault))
		return -1;
	if ((!request->known || !request->known->written) && !request->overwrite && !target->created)
		return check_signature(request, fault);
	return 0;
}

int target_open(struct target *target, const struct target_request *request, struct fault *fault)
{
	memset(target, 0, sizeof(*target));
	target->fd = target->claim = -1;
	target->id = request->id;
	target->source_bytes = request->source_bytes;
	target->created = request->known && request->known->created;
	snprintf(target->name, sizeof(target->name), "%s", request->disk);
	snprintf(target->path, sizeof(target->path), "%s", request->path);
	if (try_open(target, request, fault)) {
		target_close(target);
		return -1;
	}
	return 0;
}

void target_close(struct target *target)
{
	if (target->fd >= 0)
		close(target->fd);
	if (target->claim >= 0)
		close(target->claim);
	target->fd = target->claim = -1;
	json_decref(target->identity);
	target->identity = NULL;
}
