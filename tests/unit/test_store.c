// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * store: what is found where a store should be, and the mark of a boot. On a file beside the tests.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* after these */
#include <cmocka.h>

#include <fcntl.h>
#include <stdlib.h>
#include <systemd/sd-id128.h>
#include <unistd.h>

#include "../../kmod/store_format.h"
#include "store.h"

#define GIB (1ull << 30)

static char path[] = "test_store.XXXXXX";
static int fd = -1;
static struct blkcbt_store_super super;

static void put(uint32_t copy, const void *block)
{
	assert_int_equal(pwrite(fd, block, BLKCBT_STORE_BLOCK, 4096 + copy * BLKCBT_STORE_BLOCK), BLKCBT_STORE_BLOCK);
}

static void put_super(void)
{
	char block[BLKCBT_STORE_BLOCK];

	for (uint32_t copy = 0; copy < BLKCBT_STORE_SUPERS; copy++) {
		blkcbt_store_super_encode(&super, copy, block);
		put(copy, block);
	}
}

static int setup(void **state)
{
	(void)state;
	strcpy(path, "test_store.XXXXXX");
	fd = mkstemp(path);
	if (fd < 0 || ftruncate(fd, 1 << 20) < 0)
		return -1;
	memset(&super, 0, sizeof(super));
	super.head.magic = cpu_to_le32(BLKCBT_STORE_SUPER_MAGIC);
	super.head.generation = cpu_to_le64(7);
	super.head.seq = cpu_to_le64(20);
	super.version = cpu_to_le32(BLKCBT_STORE_VERSION);
	super.disk_bytes = cpu_to_le64(GIB);
	super.granule_bytes = cpu_to_le32(4096);
	super.extent_bytes = cpu_to_le32(BLKCBT_STORE_EXTENT_DEFAULT);
	memcpy(super.identity, "disk-a", 6);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	close(fd);
	return unlink(path);
}

static int look(const char *identity, uint64_t size_bytes, uint32_t granule_bytes)
{
	struct store_disk disk = { identity, size_bytes, granule_bytes };
	char why[256];

	return store_look(fd, 4096, &disk, why, sizeof(why));
}

static void test_look(void **state)
{
	char block[BLKCBT_STORE_BLOCK] = "something of somebody";

	(void)state;
	assert_int_equal(look("disk-a", GIB, 4096), STORE_BLANK);
	put(1, block);
	assert_int_equal(look("disk-a", GIB, 4096), STORE_ALIEN);
	put_super();
	assert_int_equal(look("disk-a", GIB, 4096), STORE_OWN);
	assert_int_equal(look("disk-b", GIB, 4096), STORE_FOREIGN);
	assert_int_equal(look("disk-", GIB, 4096), STORE_FOREIGN);
	assert_int_equal(look("disk-a", GIB + 4096, 4096), STORE_UNFIT);
	assert_int_equal(look("disk-a", GIB, 8192), STORE_UNFIT);
	/* Cut short, and with only the first copy of the superblock left. */
	assert_int_equal(ftruncate(fd, 4096 + (off_t)store_bytes(GIB, 4096) - 1), 0);
	assert_int_equal(look("disk-a", GIB, 4096), STORE_UNFIT);
	assert_int_equal(ftruncate(fd, 4096 + BLKCBT_STORE_BLOCK), 0);
	assert_int_equal(look("disk-a", GIB, 4096), STORE_UNFIT);
	assert_int_equal(look("disk-b", GIB, 4096), STORE_FOREIGN);
	assert_int_equal(ftruncate(fd, 4096 + 100), 0);
	assert_int_equal(look("disk-a", GIB, 4096), STORE_ALIEN);
	assert_int_equal(ftruncate(fd, 1 << 20), 0);
	super.version = cpu_to_le32(BLKCBT_STORE_VERSION + 1);
	put_super();
	assert_int_equal(look("disk-a", GIB, 4096), STORE_DAMAGED);
	super.head.crc = 0;
	memcpy(block, &super, sizeof(super));
	put(0, block);
	put(1, block);
	assert_int_equal(look("disk-a", GIB, 4096), STORE_DAMAGED);
	assert_int_equal(ftruncate(fd, 4096), 0);
	assert_int_equal(look("disk-a", GIB, 4096), STORE_BLANK);
}

static void test_bytes(void **state)
{
	(void)state;
	assert_int_equal(store_bytes(0, 4096), 0);
	assert_int_equal(store_bytes(GIB, 5000), 0);
	/* Two superblocks; two of one intent page, and of nine fine pages of 124 MiB. */
	assert_int_equal(store_bytes(GIB, 4096), (2 + 2 + 2 * 9) * 4096);
	assert_true(store_bytes(1024 * GIB, 4096) < 70000000);
}

/* A copy as it is on the disk. */
static struct blkcbt_store_super read_copy(uint32_t copy)
{
	struct blkcbt_store_super found;

	assert_int_equal(pread(fd, &found, sizeof(found), 4096 + copy * BLKCBT_STORE_BLOCK), sizeof(found));
	return found;
}

static void test_mark(void **state)
{
	struct blkcbt_store_super found;
	sd_id128_t boot;
	char error[256] = "";

	(void)state;
	assert_int_equal(store_mark(path, 4096, "disk-a", error, sizeof(error)), -EMEDIUMTYPE);
	put_super();
	assert_int_equal(store_mark(path, 4096, "disk-b", error, sizeof(error)), -ESTALE);
	found = read_copy(0);
	assert_int_equal(found.flags, 0);
	assert_int_equal(store_mark(path, 4096, "disk-a", error, sizeof(error)), 0);
	assert_true(sd_id128_get_boot(&boot) >= 0);
	for (uint32_t copy = 0; copy < BLKCBT_STORE_SUPERS; copy++) {
		found = read_copy(copy);
		assert_true(blkcbt_store_sealed(&found));
		assert_int_equal(found.head.index, copy);
		assert_int_equal(found.head.seq, 21);
		assert_int_equal(found.flags, BLKCBT_STORE_F_BOOT);
		assert_memory_equal(found.began_boot, boot.bytes, sizeof(boot.bytes));
	}
	/* Once is enough. */
	assert_int_equal(store_mark(path, 4096, "disk-a", error, sizeof(error)), 0);
	assert_int_equal(read_copy(0).head.seq, 21);
	assert_int_equal(store_mark("no-such-device", 0, "disk-a", error, sizeof(error)), -ENOENT);
}

/* Of a boot before, in which it was never opened: the doubt stays. */
static void test_mark_again(void **state)
{
	char error[256] = "";

	(void)state;
	super.flags = cpu_to_le32(BLKCBT_STORE_F_BOOT);
	memset(super.began_boot, 1, sizeof(super.began_boot));
	put_super();
	assert_int_equal(store_mark(path, 4096, "disk-a", error, sizeof(error)), 0);
	assert_int_equal(read_copy(1).flags, BLKCBT_STORE_F_BOOT | BLKCBT_STORE_F_DOUBT);
	assert_non_null(strstr((const char *)read_copy(1).reason, "stopped again"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_look, setup, teardown),
		cmocka_unit_test(test_bytes),
		cmocka_unit_test_setup_teardown(test_mark, setup, teardown),
		cmocka_unit_test_setup_teardown(test_mark_again, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
