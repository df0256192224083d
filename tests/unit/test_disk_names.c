/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Unit tests of the names of disks, on loop devices; left out where there are none to be had. */
#include "disk_names.h"
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <cmocka.h>

#define LOOPS 2

static char folder[] = "/tmp/test_disk_names.XXXXXX";
static char loop_path[LOOPS][32];
static int loop_fd[LOOPS] = { -1, -1 };
static dev_t loop_dev[LOOPS];
static bool usable;

static void path_of(char out[128], const char *name)
{
	snprintf(out, 128, "%s/%s", folder, name);
}

/* A disk of 1 MiB with an MBR and this number in it; 0: a blank one. */
static int make_disk(size_t i, uint32_t number)
{
	unsigned char sector[512] = { 0 };
	char name[16], path[128];
	CLEANUP_FD int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	CLEANUP_FD int file = -1;
	struct stat status;
	int index = control < 0 ? -1 : ioctl(control, LOOP_CTL_GET_FREE);

	if (index < 0)
		return -1;
	snprintf(name, sizeof(name), "disk%zu", i);
	path_of(path, name);
	file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (file < 0 || ftruncate(file, MIB))
		return -1;
	if (number) {
		memcpy(sector + 440, &number, 4);
		sector[446 + 4] = 0x83; /* one partition, from sector 64, 128 sectors */
		sector[446 + 8] = 64;
		sector[446 + 12] = 128;
		sector[510] = 0x55;
		sector[511] = 0xaa;
	}
	if (pwrite(file, sector, sizeof(sector), 0) != sizeof(sector))
		return -1;
	snprintf(loop_path[i], sizeof(loop_path[i]), "/dev/loop%d", index);
	loop_fd[i] = open(loop_path[i], O_RDWR | O_CLOEXEC);
	if (loop_fd[i] < 0 || ioctl(loop_fd[i], LOOP_SET_FD, file) || fstat(loop_fd[i], &status))
		return -1;
	loop_dev[i] = status.st_rdev;
	return 0;
}

static void links(void **state)
{
	struct disk_names names;
	char path[128];

	(void)state;
	if (!usable)
		skip();
	disk_names_of(folder, loop_path[0], &names);
	path_of(path, "by-id/wwn-0x5");
	assert_string_equal(names.by_id, path); /* not ata-model, not lvm-pv-uuid, not the other disk's */
	path_of(path, "by-path/pci-1");
	assert_string_equal(names.by_path, path);
	assert_string_equal(names.ptuuid, "1234abcd");
	assert_string_equal(names.uuid, "");
	assert_true(disk_names_any(&names));
	disk_names_of(folder, "/nonexistent", &names);
	assert_false(disk_names_any(&names));
	disk_names_of(folder, folder, &names);
	assert_false(disk_names_any(&names));
}

static int resolve(const struct disk_names *names, const char *device, dev_t *dev, char found[224])
{
	*dev = 0;
	found[0] = '\0';
	return disk_names_resolve(names, device, dev, found, 224);
}

static void order(void **state)
{
	struct disk_names names = { .ptuuid = "1234abcd" };
	char found[224];
	dev_t dev;

	(void)state;
	if (!usable)
		skip();
	/* The kernel's name is of another disk by now. */
	assert_int_equal(resolve(&names, loop_path[1], &dev, found), 0);
	assert_int_equal(dev, loop_dev[0]);
	assert_string_equal(found, "PTUUID=1234abcd");
	path_of(names.by_id, "by-id/wwn-0x6");
	assert_int_equal(resolve(&names, loop_path[1], &dev, found), 0);
	assert_int_equal(dev, loop_dev[1]); /* the first name counts */
	assert_string_equal(found, names.by_id);
	path_of(names.by_id, "by-id/gone");
	assert_int_equal(resolve(&names, NULL, &dev, found), 0);
	assert_int_equal(dev, loop_dev[0]);
}

static void none(void **state)
{
	struct disk_names names = { .ptuuid = "00000001" }, nothing = { 0 };
	char found[224];
	dev_t dev;

	(void)state;
	if (!usable)
		skip();
	/* With a lasting name known, what the kernel calls this now is no answer. */
	assert_int_equal(resolve(&names, loop_path[1], &dev, found), -ENOENT);
	assert_int_equal(resolve(&nothing, loop_path[1], &dev, found), 0);
	assert_int_equal(dev, loop_dev[1]);
	assert_int_equal(resolve(&nothing, folder, &dev, found), -ENOTBLK);
	assert_int_equal(resolve(&nothing, NULL, &dev, found), -ENOENT);
}

/* A copy of a disk beside it: neither is taken. */
static void copies(void **state)
{
	struct disk_names names = { .ptuuid = "1234abcd" };
	unsigned char sector[512];
	char found[224];
	dev_t dev;

	(void)state;
	if (!usable)
		skip();
	assert_int_equal(pread(loop_fd[0], sector, sizeof(sector), 0), sizeof(sector));
	assert_int_equal(pwrite(loop_fd[1], sector, sizeof(sector), 0), sizeof(sector));
	assert_int_equal(resolve(&names, loop_path[0], &dev, found), -ENOTUNIQ);
	path_of(names.by_path, "by-path/pci-1");
	assert_int_equal(resolve(&names, NULL, &dev, found), 0);
	assert_int_equal(dev, loop_dev[0]);
}

static void make_link(const char *name, const char *to)
{
	char path[128];

	path_of(path, name);
	if (symlink(to, path))
		abort();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(links),
		cmocka_unit_test(order),
		cmocka_unit_test(none),
		cmocka_unit_test(copies),
	};
	char command[160], path[128];
	int rc;

	if (!mkdtemp(folder))
		return 1;
	path_of(path, "by-id");
	rc = mkdir(path, 0700);
	path_of(path, "by-path");
	rc |= mkdir(path, 0700);
	if (rc)
		return 1;
	usable = !make_disk(0, 0x1234abcd) && !make_disk(1, 0);
	if (usable) {
		make_link("by-id/ata-model_1", loop_path[0]);
		make_link("by-id/lvm-pv-uuid-1", loop_path[0]);
		make_link("by-id/wwn-0x5", loop_path[0]);
		make_link("by-id/wwn-0x6", loop_path[1]);
		make_link("by-id/wwn-0x4", "/nonexistent");
		make_link("by-path/pci-1", loop_path[0]);
	}
	rc = cmocka_run_group_tests(tests, NULL, NULL);
	for (size_t i = 0; i < LOOPS; i++)
		if (loop_fd[i] >= 0) {
			ioctl(loop_fd[i], LOOP_CLR_FD, 0);
			close(loop_fd[i]);
		}
	snprintf(command, sizeof(command), "rm -rf %s", folder);
	return system(command) ? 1 : rc;
}
