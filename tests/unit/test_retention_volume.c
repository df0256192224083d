/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whether a directory is fit for undo logs: each criterion by itself in the verdict, and what is found out about real
 * file systems, on loop devices in a mount namespace of its own (skipped, and said so, where that is not allowed).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "disk_tree.h"
#include "lock.h"
#include "retention_volume.h"
#include "util.h"

#define HOUR_MS 3600000ull
#define TEXT 600

/* ---- the verdict ---------------------------------------------------------------- */

static struct retention_facts fine(void)
{
	return (struct retention_facts){ .path = "/mnt/r", .exists = true, .directory = true, .own_filesystem = true,
					 .type = "ext4", .bytes_total = 100 * GIB, .bytes_free = 90 * GIB };
}

static const struct retention_demand two_hours = { .churn_bytes_per_hour = GIB, .keep_all_ms = 2 * HOUR_MS,
						    .keep_hourly_ms = 24 * HOUR_MS };

/* The verdict, once with everything and once with nothing asked for; @check is the one that is not good. */
static void expect(const struct retention_facts *facts, const struct retention_demand *demand, enum retention_level level,
		   const char *check, const char *cause, const char *to_do)
{
	CLEANUP_JSON json_t *checks = NULL;
	char message[TEXT], remedy[TEXT];
	const json_t *one;
	size_t i, found = 0;

	assert_int_equal(retention_volume_judge(facts, demand, &checks, message, remedy), level);
	assert_int_equal(retention_volume_judge(facts, demand, NULL, NULL, NULL), level);
	json_array_foreach(checks, i, one) {
		const char *result = json_string_value(json_object_get(one, "result"));
		const char *name = json_string_value(json_object_get(one, "check"));

		if (!strcmp(result, "good")) {
			assert_string_equal(json_string_value(json_object_get(one, "remedy")), "");
			continue;
		}
		found++;
		assert_string_equal(result, retention_level_name(level));
		assert_string_equal(name, check);
		assert_string_equal(json_string_value(json_object_get(one, "message")), message);
		assert_string_equal(json_string_value(json_object_get(one, "remedy")), remedy);
	}
	assert_int_equal(found, 1);
	if (strncmp(message, "retention volume /mnt/r: ", 25) != 0 || !strstr(message, cause) || !strstr(remedy, to_do))
		fail_msg("%s (%s), not: %s (%s)", message, remedy, cause, to_do);
}

static void test_a_volume_that_is_fit(void **state)
{
	struct retention_facts facts = fine();
	CLEANUP_JSON json_t *checks = NULL;
	char message[TEXT], remedy[TEXT];

	(void)state;
	assert_int_equal(retention_volume_judge(&facts, &two_hours, &checks, message, remedy), RETENTION_GOOD);
	assert_int_equal(json_array_size(checks), 9);
	assert_string_equal(message, "");
	assert_string_equal(remedy, "");
	assert_int_equal(retention_volume_judge(&facts, NULL, NULL, NULL, NULL), RETENTION_GOOD);
}

static void test_it_has_to_be_a_directory(void **state)
{
	struct retention_facts facts = fine();

	(void)state;
	facts.directory = false;
	expect(&facts, &two_hours, RETENTION_REFUSED, "directory", "it is not a directory", "mount");
	facts.exists = false;
	expect(&facts, &two_hours, RETENTION_REFUSED, "directory", "it does not exist", "mount");
	facts.look_error = -EACCES;
	expect(&facts, &two_hours, RETENTION_REFUSED, "directory", "Permission denied", "root");
}

static void test_it_has_to_have_a_file_system_of_its_own(void **state)
{
	struct retention_facts facts = fine();

	(void)state;
	facts.own_filesystem = false;
	expect(&facts, &two_hours, RETENTION_REFUSED, "filesystem", "it is on the root file system", "/etc/fstab");
}

static void test_the_type_has_to_fit(void **state)
{
	static const char *const refused[] = { "vfat", "msdos", "exfat", "ntfs", "ntfs3", "fuseblk", "tmpfs", "ramfs",
					       "overlay" };
	static const char *const warned[] = { "nfs4", "fuse.sshfs", "cifs", "" }, *const good[] = { "ext4", "xfs", "btrfs" };
	struct retention_facts facts = fine();

	(void)state;
	for (size_t i = 0; i < ARRAY_LENGTH(refused); i++) {
		snprintf(facts.type, sizeof(facts.type), "%s", refused[i]);
		expect(&facts, &two_hours, RETENTION_REFUSED, "type", refused[i], "ext4");
	}
	for (size_t i = 0; i < ARRAY_LENGTH(warned); i++) {
		snprintf(facts.type, sizeof(facts.type), "%s", warned[i]);
		expect(&facts, &two_hours, RETENTION_WARNING, "type", warned[i], "ext4");
	}
	for (size_t i = 0; i < ARRAY_LENGTH(good); i++) {
		snprintf(facts.type, sizeof(facts.type), "%s", good[i]);
		assert_int_equal(retention_volume_judge(&facts, &two_hours, NULL, NULL, NULL), RETENTION_GOOD);
	}
}

static void test_it_has_to_be_writable(void **state)
{
	struct retention_facts facts = fine();

	(void)state;
	facts.write_error = -EIO;
	expect(&facts, &two_hours, RETENTION_REFUSED, "write", "Input/output error", "dmesg");
	facts.write_error = -EOPNOTSUPP;
	expect(&facts, &two_hours, RETENTION_REFUSED, "write", "cannot allocate or lock", "ext4");
	facts.write_error = -EACCES;
	expect(&facts, &two_hours, RETENTION_REFUSED, "write", "Permission denied", "root");
	facts.write_error = -EDQUOT;
	expect(&facts, &two_hours, RETENTION_REFUSED, "write", "quota", "quota");
	facts.write_error = -ENOSPC;
	expect(&facts, &two_hours, RETENTION_WARNING, "write", "it is full", "enlarge");
	facts.read_only = true; /* then that is the reason, and said once */
	expect(&facts, &two_hours, RETENTION_REFUSED, "read_write", "mounted read-only", "remount");
}

static void test_it_is_for_one_master_target(void **state)
{
	struct retention_facts facts = fine();

	(void)state;
	facts.locked = true;
	expect(&facts, &two_hours, RETENTION_REFUSED, "lock", "locked by another process: /mnt/r/lock", "stop the other");
	facts.lock_owner = 4711;
	expect(&facts, &two_hours, RETENTION_REFUSED, "lock", "another process (process 4711)", "stop the other");
	facts.own_lock = true;
	assert_int_equal(retention_volume_judge(&facts, &two_hours, NULL, NULL, NULL), RETENTION_GOOD);
}

static void test_it_holds_nothing_else(void **state)
{
	struct retention_facts facts = fine();

	(void)state;
	snprintf(facts.holds, sizeof(facts.holds), "the target image /mnt/r/a.img");
	expect(&facts, &two_hours, RETENTION_REFUSED, "contents", "it holds the target image /mnt/r/a.img", "nothing else");
}

static void test_it_has_room(void **state)
{
	struct retention_facts facts = fine();

	(void)state;
	facts.bytes_free = 0;
	expect(&facts, &two_hours, RETENTION_WARNING, "capacity", "it is full, all 100 GiB", "enlarge");
	facts.bytes_total = 0;
	expect(&facts, &two_hours, RETENTION_REFUSED, "capacity", "no capacity", "ext4");
}

static void test_it_has_room_for_the_policy(void **state)
{
	struct retention_facts facts = fine();
	struct retention_demand demand = two_hours;

	(void)state;
	assert_int_equal(retention_demand_bytes(&demand), 25 * GIB);
	demand.keep_hourly_ms = 0;
	assert_int_equal(retention_demand_bytes(&demand), 3 * GIB);
	demand.keep_hourly_ms = 100 * HOUR_MS;
	expect(&facts, &demand, RETENTION_WARNING, "policy", "needs up to 101 GiB, it has 100 GiB", "enlarge");
	facts.bytes_total = 101 * GIB;
	assert_int_equal(retention_volume_judge(&facts, &demand, NULL, NULL, NULL), RETENTION_GOOD);
	demand.max_bytes = 50 * GIB;
	assert_int_equal(retention_demand_bytes(&demand), 50 * GIB);
	assert_int_equal(retention_volume_judge(&facts, &demand, NULL, NULL, NULL), RETENTION_GOOD);
	demand.max_bytes = 102 * GIB;
	expect(&facts, &demand, RETENTION_WARNING, "policy", "lets undo logs have 102 GiB, it has 101 GiB", "lower");
	demand = (struct retention_demand){ .churn_bytes_per_hour = UINT64_MAX / 2, .keep_all_ms = UINT64_MAX };
	assert_true(retention_demand_bytes(&demand) == UINT64_MAX);
	demand.churn_bytes_per_hour = 0;
	assert_int_equal(retention_demand_bytes(&demand), 0);
}

static void test_the_worst_is_what_is_told(void **state)
{
	struct retention_facts facts = fine();
	char message[TEXT], remedy[TEXT];

	(void)state;
	snprintf(facts.type, sizeof(facts.type), "nfs4");
	facts.locked = true;
	snprintf(facts.holds, sizeof(facts.holds), "x");
	assert_int_equal(retention_volume_judge(&facts, NULL, NULL, message, remedy), RETENTION_REFUSED);
	assert_non_null(strstr(message, "locked by another process"));
}

static void test_a_long_path_hides_nothing(void **state)
{
	struct retention_facts facts = fine();
	CLEANUP_JSON json_t *checks = NULL;
	char message[TEXT], remedy[TEXT];

	(void)state;
	memset(facts.path, 0xc3, sizeof(facts.path) - 1); /* no UTF-8 either */
	facts.locked = true;
	assert_int_equal(retention_volume_judge(&facts, NULL, &checks, message, remedy), RETENTION_REFUSED);
	assert_int_equal(json_array_size(checks), 9);
	assert_non_null(strstr(message, "locked by another process"));
}

/* ---- real file systems ------------------------------------------------------------ */

#define IMAGE_BYTES (64 * MIB)

static bool rooted; /* mounting and loop devices work */

struct rig {
	char dir[64], image[96], mount[96], device[32], mapped[32];
	bool partitions;
	int loop;
};

static int run(const char *format, ...)
{
	char command[512];
	va_list list;

	va_start(list, format);
	vsnprintf(command, sizeof(command), format, list);
	va_end(list);
	return system(command); /* NOLINT: paths are of this test */
}

/* A loop device over a new file; it ends by itself with its last user. */
static bool attach(const char *image, char device[32], int *loop)
{
	struct loop_config config = { .info = { .lo_flags = LO_FLAGS_AUTOCLEAR } };
	CLEANUP_FD int file = open(image, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	CLEANUP_FD int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);

	if (file < 0 || control < 0 || ftruncate(file, IMAGE_BYTES))
		return false;
	config.fd = (uint32_t)file;
	for (unsigned attempt = 0; attempt < 10; attempt++) {
		int number = ioctl(control, LOOP_CTL_GET_FREE);

		if (number < 0)
			return false;
		snprintf(device, 32, "/dev/loop%d", number);
		*loop = open(device, O_RDWR | O_CLOEXEC);
		if (*loop < 0)
			return false;
		if (!ioctl(*loop, LOOP_CONFIGURE, &config))
			return true;
		close(*loop); /* somebody else was faster */
		*loop = -1;
	}
	return false;
}

static int setup(void **state)
{
	struct rig *rig = calloc(1, sizeof(*rig));

	*state = rig;
	if (!rig)
		return -1;
	rig->loop = -1;
	snprintf(rig->dir, sizeof(rig->dir), "/tmp/test_retention.XXXXXX");
	if (!mkdtemp(rig->dir))
		return -1;
	snprintf(rig->image, sizeof(rig->image), "%s/image", rig->dir);
	snprintf(rig->mount, sizeof(rig->mount), "%s/with space", rig->dir);
	return mkdir(rig->mount, 0700);
}

static int teardown(void **state)
{
	struct rig *rig = *state;

	while (!umount2(rig->mount, MNT_DETACH))
		;
	if (rig->partitions)
		run("dmsetup remove --retry %s 2>/dev/null; partx -d %s 2>/dev/null", rig->mapped, rig->device);
	if (rig->loop >= 0)
		close(rig->loop);
	run("rm -rf '%s'", rig->dir);
	free(rig);
	return 0;
}

static void need_root(void)
{
	if (!rooted) {
		print_message("skipped: needs root, mount namespaces and loop devices\n");
		skip();
	}
}

static void mount_new(struct rig *rig, const char *type, const char *mkfs, unsigned long flags)
{
	need_root();
	if (run("command -v mkfs.%s >/dev/null && grep -qw %s /proc/filesystems", type, type)) {
		print_message("skipped: no %s here\n", type);
		skip();
	}
	assert_true(attach(rig->image, rig->device, &rig->loop));
	assert_int_equal(run("mkfs.%s %s %s >/dev/null 2>&1", type, mkfs, rig->device), 0);
	assert_int_equal(mount(rig->device, rig->mount, type, flags, NULL), 0);
}

static void expect_empty(const char *path)
{
	DIR *dir = opendir(path);
	const struct dirent *entry;

	assert_non_null(dir);
	while ((entry = readdir(dir)))
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 &&
		    strcmp(entry->d_name, "lost+found") != 0)
			fail_msg("%s was left behind", entry->d_name);
	closedir(dir);
}

static enum retention_level judged(const struct retention_facts *facts)
{
	char message[TEXT], remedy[TEXT];
	enum retention_level level = retention_volume_judge(facts, NULL, NULL, message, remedy);

	if (level != RETENTION_GOOD)
		print_message("%s (%s)\n", message, remedy);
	return level;
}

static void test_an_ext4_volume(void **state)
{
	struct rig *rig = *state;
	struct retention_facts facts;
	char below[200];

	mount_new(rig, "ext4", "-q", 0);
	retention_volume_look(rig->mount, NULL, &facts);
	assert_string_equal(facts.path, rig->mount);
	assert_string_equal(facts.type, "ext4");
	assert_true(facts.exists && facts.directory && facts.own_filesystem && !facts.read_only && !facts.locked);
	assert_int_equal(facts.write_error, 0);
	assert_true(facts.bytes_total > 32 * MIB && facts.bytes_total < IMAGE_BYTES);
	assert_true(facts.bytes_free > 0 && facts.bytes_free < facts.bytes_total);
	assert_int_equal(judged(&facts), RETENTION_GOOD);
	expect_empty(rig->mount);
	snprintf(below, sizeof(below), "%s/below", rig->mount);
	assert_int_equal(mkdir(below, 0700), 0);
	retention_volume_look(below, NULL, &facts);
	assert_int_equal(judged(&facts), RETENTION_GOOD);
	expect_empty(below);
}

static void test_a_read_only_mount(void **state)
{
	struct rig *rig = *state;
	struct retention_facts facts;

	mount_new(rig, "ext4", "-q", MS_RDONLY);
	retention_volume_look(rig->mount, NULL, &facts);
	assert_true(facts.read_only);
	assert_int_equal(judged(&facts), RETENTION_REFUSED);
	/* The file system is writable, this mount of it is not. */
	assert_int_equal(mount(NULL, rig->mount, NULL, MS_REMOUNT, NULL), 0);
	assert_int_equal(mount(NULL, rig->mount, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL), 0);
	retention_volume_look(rig->mount, NULL, &facts);
	assert_true(facts.read_only);
}

static void test_a_full_volume(void **state)
{
	struct rig *rig = *state;
	struct retention_facts facts;

	mount_new(rig, "ext4", "-q -m 0", 0);
	run("dd if=/dev/zero of='%s/fill' bs=1M 2>/dev/null", rig->mount);
	retention_volume_look(rig->mount, NULL, &facts);
	assert_int_equal(facts.write_error, -ENOSPC);
	assert_int_equal(judged(&facts), RETENTION_WARNING);
}

static void test_fat_is_refused(void **state)
{
	struct rig *rig = *state;
	struct retention_facts facts;

	mount_new(rig, "vfat", "", 0);
	retention_volume_look(rig->mount, NULL, &facts);
	assert_string_equal(facts.type, "vfat");
	assert_int_equal(judged(&facts), RETENTION_REFUSED);
	expect_empty(rig->mount);
}

static void test_memory_is_refused(void **state)
{
	struct rig *rig = *state;
	struct retention_facts facts;

	need_root();
	assert_int_equal(mount("none", rig->mount, "tmpfs", 0, NULL), 0);
	retention_volume_look(rig->mount, NULL, &facts);
	assert_string_equal(facts.type, "tmpfs");
	assert_true(facts.own_filesystem);
	assert_int_equal(judged(&facts), RETENTION_REFUSED);
}

static void test_the_root_file_system_is_refused(void **state)
{
	char elsewhere[] = "/var/tmp/test_retention.XXXXXX";
	struct rig *rig = *state;
	struct retention_facts facts;

	retention_volume_look("/", NULL, &facts);
	assert_true(facts.exists && facts.directory && !facts.own_filesystem);
	assert_int_equal(judged(&facts), RETENTION_REFUSED);
	need_root();
	/* Also where a directory of it is mounted elsewhere. */
	assert_non_null(mkdtemp(elsewhere));
	retention_volume_look(elsewhere, NULL, &facts);
	if (facts.own_filesystem) {
		print_message("skipped: /var/tmp is a file system of its own\n");
	} else {
		assert_int_equal(mount(elsewhere, rig->mount, NULL, MS_BIND, NULL), 0);
		retention_volume_look(rig->mount, NULL, &facts);
		assert_false(facts.own_filesystem);
		assert_int_equal(umount(rig->mount), 0);
	}
	rmdir(elsewhere);
}

static void test_what_does_not_exist(void **state)
{
	struct rig *rig = *state;
	struct retention_facts facts;
	char path[200];

	snprintf(path, sizeof(path), "%s/missing", rig->dir);
	retention_volume_look(path, NULL, &facts);
	assert_true(!facts.exists && !facts.look_error);
	assert_int_equal(judged(&facts), RETENTION_REFUSED);
	run("touch '%s'", path);
	retention_volume_look(path, NULL, &facts);
	assert_true(facts.exists && !facts.directory);
	assert_int_equal(judged(&facts), RETENTION_REFUSED);
}

static void holds(const struct rig *rig, const char *target, const char *directory, const char *what)
{
	const char *targets[] = { "/dev/null", target, NULL }, *directories[] = { "/", directory, NULL };
	struct retention_others others = { .targets = targets, .directories = directories };
	struct retention_facts facts;

	retention_volume_look(rig->mount, &others, &facts);
	if (!what) {
		assert_string_equal(facts.holds, "");
		assert_int_equal(judged(&facts), RETENTION_GOOD);
		return;
	}
	if (!strstr(facts.holds, what))
		fail_msg("\"%s\", not \"%s\"", facts.holds, what);
	assert_int_equal(judged(&facts), RETENTION_REFUSED);
}

static void test_target_images_and_directories_lie_elsewhere(void **state)
{
	struct rig *rig = *state;
	char path[200], link[200];

	mount_new(rig, "ext4", "-q", 0);
	holds(rig, rig->image, rig->dir, NULL);
	snprintf(path, sizeof(path), "%s/host/not made yet.img", rig->mount);
	holds(rig, path, NULL, "the target image");
	snprintf(path, sizeof(path), "%s/target.img", rig->mount);
	run("touch '%s'", path);
	holds(rig, path, NULL, path);
	snprintf(link, sizeof(link), "%s/link.img", rig->dir);
	assert_int_equal(symlink(path, link), 0);
	holds(rig, link, NULL, link);
	snprintf(path, sizeof(path), "%s/spool", rig->mount);
	run("mkdir '%s'", path);
	holds(rig, NULL, path, path);
}

static void test_a_target_disk_is_another_one(void **state)
{
	struct rig *rig = *state;
	char image[200], device[32];
	int loop = -1;

	mount_new(rig, "ext4", "-q", 0);
	holds(rig, rig->device, NULL, "lies on that disk itself");
	/* The target's disk has its content in a file on the volume. */
	snprintf(image, sizeof(image), "%s/target.img", rig->mount);
	assert_true(attach(image, device, &loop));
	holds(rig, device, NULL, "the file of the target disk");
	assert_int_equal(close(loop), 0);
	/* The volume's disk has its content in a file, and the target is the disk of that. */
	snprintf(image, sizeof(image), "%s/other.img", rig->dir);
	assert_true(attach(image, device, &loop));
	holds(rig, device, NULL, NULL);
	assert_int_equal(close(loop), 0);
}

/* The volume on a partition, the target the disk, another partition of it, or a device mapped over the first. */
static void test_a_target_is_not_what_the_volume_lies_on(void **state)
{
	struct rig *rig = *state;
	char first[48], second[48], mapped[48];
	struct stat a, b;

	need_root();
	if (run("command -v sfdisk >/dev/null && command -v partx >/dev/null")) {
		print_message("skipped: no sfdisk\n");
		skip();
	}
	assert_true(attach(rig->image, rig->device, &rig->loop));
	snprintf(first, sizeof(first), "%sp1", rig->device);
	snprintf(second, sizeof(second), "%sp2", rig->device);
	if (run("printf 'label: dos\\n,30M,L\\n,,L\\n' | sfdisk -q --no-reread %s 2>/dev/null && partx -a %s", rig->device,
		rig->device) ||
	    run("udevadm settle 2>/dev/null; test -b %s", first)) {
		print_message("skipped: no partitions on loop devices here\n");
		skip();
	}
	rig->partitions = true;
	assert_int_equal(run("mkfs.ext4 -q %s", first), 0);
	assert_int_equal(stat(rig->device, &a) || stat(first, &b), 0);
	assert_true(disk_tree_stands_on(b.st_rdev, a.st_rdev) && !disk_tree_stands_on(a.st_rdev, b.st_rdev));
	assert_true(disk_tree_shares_disk(a.st_rdev, b.st_rdev));
	assert_int_equal(mount(first, rig->mount, "ext4", 0, NULL), 0);
	holds(rig, rig->device, NULL, "lies on that disk itself");
	holds(rig, first, NULL, "lies on that disk itself");
	holds(rig, second, NULL, NULL);
	assert_int_equal(umount(rig->mount), 0);

	snprintf(rig->mapped, sizeof(rig->mapped), "test-retention-%d", (int)getpid());
	snprintf(mapped, sizeof(mapped), "/dev/mapper/%s", rig->mapped);
	if (run("command -v dmsetup >/dev/null && echo 0 61440 linear %s 0 | dmsetup create %s 2>/dev/null", first,
		rig->mapped)) {
		print_message("not tried: no device mapper here\n");
	} else {
		assert_int_equal(mount(mapped, rig->mount, "ext4", 0, NULL), 0);
		holds(rig, rig->device, NULL, "lies on that disk itself");
		holds(rig, first, NULL, "lies on that disk itself");
		holds(rig, mapped, NULL, "lies on that disk itself");
		holds(rig, second, NULL, NULL);
	}
}

/* Holds the lock until it is told to end. */
static pid_t lock_in_child(const char *path, int *go)
{
	int ready[2], release[2];
	char byte;
	pid_t child;

	assert_int_equal(pipe(ready) || pipe(release), 0);
	child = fork();
	if (!child) {
		int fd = open(path, O_RDWR | O_CREAT, 0600);

		close(release[1]);
		if (fd < 0 || lock_take(fd, "test", 0, NULL) || write(ready[1], "", 1) != 1)
			_exit(1);
		_exit(read(release[0], &byte, 1) != 0);
	}
	close(ready[1]);
	close(release[0]);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	*go = release[1];
	return child;
}

static void test_a_lock_is_seen_and_left_alone(void **state)
{
	struct rig *rig = *state;
	struct retention_others own = { .own_lock = true };
	struct retention_facts facts;
	char path[200];
	int go, status;
	pid_t child;

	snprintf(path, sizeof(path), "%s/" RETENTION_LOCK, rig->mount);
	retention_volume_look(rig->mount, NULL, &facts);
	assert_false(facts.locked);
	assert_int_equal(access(path, F_OK), -1);
	child = lock_in_child(path, &go);
	retention_volume_look(rig->mount, NULL, &facts);
	assert_true(facts.locked && !facts.own_lock);
	assert_int_equal(facts.lock_owner, child);
	retention_volume_look(rig->mount, &own, &facts);
	assert_true(facts.locked && facts.own_lock);
	close(go);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	retention_volume_look(rig->mount, NULL, &facts);
	assert_false(facts.locked);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_volume_that_is_fit),
		cmocka_unit_test(test_it_has_to_be_a_directory),
		cmocka_unit_test(test_it_has_to_have_a_file_system_of_its_own),
		cmocka_unit_test(test_the_type_has_to_fit),
		cmocka_unit_test(test_it_has_to_be_writable),
		cmocka_unit_test(test_it_is_for_one_master_target),
		cmocka_unit_test(test_it_holds_nothing_else),
		cmocka_unit_test(test_it_has_room),
		cmocka_unit_test(test_it_has_room_for_the_policy),
		cmocka_unit_test(test_the_worst_is_what_is_told),
		cmocka_unit_test(test_a_long_path_hides_nothing),
		T(test_an_ext4_volume),
		T(test_a_read_only_mount),
		T(test_a_full_volume),
		T(test_fat_is_refused),
		T(test_memory_is_refused),
		T(test_the_root_file_system_is_refused),
		T(test_what_does_not_exist),
		T(test_target_images_and_directories_lie_elsewhere),
		T(test_a_target_disk_is_another_one),
		T(test_a_target_is_not_what_the_volume_lies_on),
		T(test_a_lock_is_seen_and_left_alone),
	};

	rooted = !geteuid() && !unshare(CLONE_NEWNS) && !mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) &&
		 !access("/dev/loop-control", R_OK | W_OK);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
