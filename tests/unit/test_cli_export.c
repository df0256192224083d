/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of what points export, mount and verify decide: how nbdkit is started and known again, what is on a disk and
 * what of it is meant, what the checkers' words mean; and that a program is run to its end, or its time.
 */
/* LINK: userspace/cli/exports.c userspace/cli/export.c userspace/cli/content.c userspace/cli/fscheck.c */
/* LINK: userspace/cli/verify.c userspace/cli/nbd.c userspace/cli/run.c userspace/cli/client.c userspace/cli/format.c */
/* LINK: userspace/cli/points.c userspace/cli/points_print.c */
#include "userspace/cli/content.h"
#include "userspace/cli/exports.h"
#include "userspace/cli/fscheck.h"
#include "userspace/cli/run.h"
#include "userspace/cli/verify.h"
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

/* ---- nbdkit -------------------------------------------------------------- */

static struct exports_server server(bool writable)
{
	return (struct exports_server){ .plugin = "reprotect", .socket = "/s k", .pidfile = "/p", .log = "/r/u",
					.target = "/dev/vdb", .state = 12345678901, .size_bytes = 1ull << 44, .disk = 3,
					.writable = writable };
}

static void joined(const struct exports_command *command, char *out, size_t out_bytes)
{
	size_t used = 0;

	for (size_t i = 0; command->argv[i]; i++)
		used += (size_t)snprintf(out + used, out_bytes - used, "%s|", command->argv[i]);
}

static void nbdkit_is_told_all(void **state)
{
	struct exports_server s = server(false);
	struct exports_command command;
	char text[512], *long_path;

	(void)state;
	assert_int_equal(exports_command(&s, &command), 0);
	joined(&command, text, sizeof(text));
	assert_string_equal(text, "nbdkit|--unix|/s k|--pidfile|/p|--readonly|reprotect|log=/r/u|state=12345678901|disk=3|"
				  "size=17592186044416|target=/dev/vdb|");
	s = server(true);
	assert_int_equal(exports_command(&s, &command), 0);
	joined(&command, text, sizeof(text));
	assert_non_null(strstr(text, "|--filter=cow|reprotect|"));
	assert_null(strstr(text, "--readonly"));
	long_path = malloc(10000);
	assert_non_null(long_path);
	memset(long_path, 'a', 9999);
	long_path[9999] = '\0';
	s.log = long_path;
	assert_int_equal(exports_command(&s, &command), -ENAMETOOLONG);
	free(long_path);
}

static void names_are_plain_and_short(void **state)
{
	char out[EXPORTS_NAME_BYTES];

	(void)state;
	assert_string_equal(exports_name(out, "vm1.example.org", "root", 42, 1), "vm1.example.org-root-42-1");
	assert_string_equal(exports_name(out, "../../etc", "a b/c;$(x)", 42, 1), "_._.._etc-a_b_c___x_-42-1");
	assert_null(strpbrk(out, "/ ;$()"));
	assert_int_not_equal(out[0], '.');
	assert_string_equal(exports_name(out, "", "", 1, 2), "x-x-1-2");
	exports_name(out, "a-host-with-a-very-long-name-that-goes-on-and-on-and-on", "a-disk-whose-name-is-long-too-and-more",
		     UINT64_MAX, 9999);
	assert_true(strlen(out) < EXPORTS_NAME_BYTES - 1);
	assert_non_null(strstr(out, "-18446744073709551615-9999"));
}

static void uris_are_escaped(void **state)
{
	char out[EXPORTS_URI_BYTES];

	(void)state;
	assert_string_equal(exports_uri(out, "/run/reprotect/exports/vm1-root-42-1.sock"),
			    "nbd+unix:///?socket=/run/reprotect/exports/vm1-root-42-1.sock");
	assert_string_equal(exports_uri(out, "/a b&c%\xc3\xa4"), "nbd+unix:///?socket=/a%20b%26c%25%C3%A4");
}

static void a_server_is_known_by_its_socket(void **state)
{
	static const char good[] = "nbdkit\0--unix\0/run/a.sock\0--pidfile\0/run/a.pid\0-r\0reprotect";
	static const char path[] = "/usr/bin/nbdkit\0--unix\0/run/a.sock";
	static const char other[] = "vi\0--unix\0/run/a.sock";
	static const char elsewhere[] = "nbdkit\0--pidfile\0/run/a.sock\0--unix\0/run/b.sock";

	(void)state;
	assert_true(exports_is_server(good, sizeof(good), "/run/a.sock"));
	assert_true(exports_is_server(path, sizeof(path), "/run/a.sock"));
	assert_false(exports_is_server(good, sizeof(good), "/run/a.soc"));
	assert_false(exports_is_server(good, sizeof(good), "/run/b.sock"));
	assert_false(exports_is_server(other, sizeof(other), "/run/a.sock"));
	assert_false(exports_is_server(elsewhere, sizeof(elsewhere), "/run/a.sock"));
	assert_false(exports_is_server(path, sizeof(path) - 3, "/run/a.sock"));
	assert_false(exports_is_server("", 0, "/run/a.sock"));
}

static void a_disk_is_found_by_name(void **state)
{
	CLEANUP_JSON json_t *answer = json_loads("{\"point\":{\"disks\":[{\"id\":0,\"name\":\"root\"},{\"id\":7,\"name\":\"data\"}]}}",
						 0, NULL);

	(void)state;
	assert_int_equal(cli_number(point_disk(answer, "data"), "id"), 7);
	assert_null(point_disk(answer, "dat"));
	assert_null(point_disk(answer, ""));
}

/* ---- what is on a disk --------------------------------------------------- */

#define DISK_BYTES (4u << 20)

static void partition(uint8_t *disk, unsigned number, uint8_t type, uint32_t first, uint32_t count)
{
	uint8_t *entry = disk + 446 + (number - 1) * 16;

	entry[4] = type;
	for (unsigned i = 0; i < 4; i++) {
		entry[8 + i] = (uint8_t)(first >> 8 * i);
		entry[12 + i] = (uint8_t)(count >> 8 * i);
	}
	disk[510] = 0x55;
	disk[511] = 0xaa;
}

static void swap(uint8_t *at, size_t bytes)
{
	at[1024] = 1;
	at[1028] = (uint8_t)(bytes / 4096 - 1);
	memcpy(at + 1052, "0123456789abcdef", 16); /* the uuid */
	memcpy(at + 4096 - 10, "SWAPSPACE2", 10);
}

static void ext4(uint8_t *at, uint32_t blocks)
{
	uint8_t *super = at + 1024;

	for (unsigned i = 0; i < 4; i++)
		super[4 + i] = (uint8_t)(blocks >> 8 * i);
	super[56] = 0x53;
	super[57] = 0xef;
	super[76] = 1;	  /* revision */
	super[92] = 4;	  /* has_journal */
	super[96] = 0x40; /* extents: ext4 */
	memcpy(super + 120, "label", 5);
}

static int disk(uint8_t **map)
{
	int fd = memfd_create("disk", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, DISK_BYTES), 0);
	*map = mmap(NULL, DISK_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(*map, MAP_FAILED);
	return fd;
}

static void partitions_are_found(void **state)
{
	CLEANUP_FREE struct content *content = malloc(sizeof(*content));
	uint8_t *map;
	CLEANUP_FD int fd = disk(&map);
	const char *remedy;
	char error[512];

	(void)state;
	partition(map, 1, 0x82, 512, 2048);
	partition(map, 2, 0x83, 2560, 2048);
	partition(map, 3, 0x41, 4608, 256);
	partition(map, 4, 0x83, 4864, 256);
	swap(map + 512 * 512, 2048 * 512);
	ext4(map + 2560 * 512, 1024);
	assert_int_equal(content_find(fd, content), 0);
	assert_string_equal(content->table, "dos");
	assert_int_equal(content->count, 4);
	assert_string_equal(content->items[0].type, "swap");
	assert_string_equal(content->items[0].usage, "other");
	assert_string_equal(content->items[1].type, "ext4");
	assert_string_equal(content->items[1].label, "label");
	assert_int_equal(content->items[1].partition, 2);
	assert_int_equal(content->items[1].offset_bytes, 2560 * 512);
	assert_true(content->items[2].bare);
	assert_string_equal(content->items[3].type, "");
	assert_false(content->items[3].bare);
	assert_ptr_equal(content_choose(content, 0, error, sizeof(error), &remedy), &content->items[1]);
	munmap(map, DISK_BYTES);
}

static void a_whole_disk_is_found(void **state)
{
	CLEANUP_FREE struct content *content = malloc(sizeof(*content));
	uint8_t *map;
	CLEANUP_FD int fd = disk(&map);

	(void)state;
	assert_int_equal(content_find(fd, content), 0);
	assert_string_equal(content->table, "");
	assert_int_equal(content->count, 1);
	assert_string_equal(content->items[0].type, "");
	ext4(map, 4096);
	assert_int_equal(content_find(fd, content), 0);
	assert_string_equal(content->table, "");
	assert_int_equal(content->count, 1);
	assert_int_equal(content->items[0].partition, 0);
	assert_int_equal(content->items[0].size_bytes, DISK_BYTES);
	assert_string_equal(content->items[0].type, "ext4");
	munmap(map, DISK_BYTES);
}

static void one_file_system_is_chosen(void **state)
{
	static const struct content content = { .table = "gpt",
					  .items = { { .partition = 1, .usage = "filesystem", .type = "vfat", .size_bytes = 1 << 20 },
						     { .partition = 2, .usage = "other", .type = "swap", .size_bytes = 1 << 20 },
						     { .partition = 5, .usage = "filesystem", .type = "xfs", .label = "root" } },
					  .count = 3 };
	static const struct content one = { .items = { { .usage = "filesystem", .type = "xfs" } }, .count = 1 };
	static const struct content lvm = { .items = { { .usage = "raid", .type = "LVM2_member" } }, .count = 1 };
	static const struct content empty = { .table = "gpt" };
	const char *remedy;
	char error[512];

	(void)state;
	assert_ptr_equal(content_choose(&one, 0, error, sizeof(error), &remedy), &one.items[0]);
	assert_ptr_equal(content_choose(&content, 5, error, sizeof(error), &remedy), &content.items[2]);
	assert_null(content_choose(&content, 0, error, sizeof(error), &remedy));
	assert_string_equal(error, "there are several file systems (1: vfat, 1 MiB; 2: swap, 1 MiB; 5: xfs \"root\", 0 B)");
	assert_string_equal(remedy, "choose one with --partition NUMBER");
	assert_null(content_choose(&content, 3, error, sizeof(error), &remedy));
	assert_non_null(strstr(error, "there is no partition 3 (there is 1: vfat"));
	assert_null(content_choose(&content, 2, error, sizeof(error), &remedy));
	assert_non_null(strstr(error, "partition 2 holds no file system"));
	assert_null(content_choose(&lvm, 0, error, sizeof(error), &remedy));
	assert_non_null(strstr(error, "the whole disk: LVM2_member"));
	assert_null(content_choose(&one, 1, error, sizeof(error), &remedy));
	assert_null(content_choose(&empty, 0, error, sizeof(error), &remedy));
	assert_null(content_choose(&empty, 1, error, sizeof(error), &remedy));
}

static void devices_and_options(void **state)
{
	char out[32];

	(void)state;
	assert_string_equal(content_device("/dev/nbd0", 2, out, sizeof(out)), "/dev/nbd0p2");
	assert_string_equal(content_device("/dev/sda", 2, out, sizeof(out)), "/dev/sda2");
	assert_string_equal(content_device("/dev/nbd0", 0, out, sizeof(out)), "/dev/nbd0");
	assert_string_equal(content_mount_data("ext4", true), "noload");
	assert_string_equal(content_mount_data("ext4", false), "");
	assert_string_equal(content_mount_data("xfs", true), "nouuid,norecovery");
	assert_string_equal(content_mount_data("xfs", false), "nouuid");
	assert_string_equal(content_mount_data("vfat", true), "");
	assert_string_equal(content_mount_type("ntfs"), "ntfs3");
	assert_string_equal(content_mount_type("ext4"), "ext4");
}

/* ---- checkers ------------------------------------------------------------ */

static void checkers_are_understood(void **state)
{
	char detail[FSCHECK_DETAIL_BYTES];
	static const char broken[] = "e2fsck 1.47.0 (5-Feb-2023)\nPass 1: Checking inodes, blocks, and sizes\n"
				     "Inode 12 has an invalid extent\n";

	(void)state;
	assert_int_equal(fscheck_judge("ext4", 0, broken, detail), FSCHECK_GOOD);
	assert_string_equal(detail, "");
	assert_int_equal(fscheck_judge("ext4", 4, broken, detail), FSCHECK_BAD);
	assert_string_equal(detail, "Inode 12 has an invalid extent");
	assert_int_equal(fscheck_judge("ext2", 4, broken, detail), FSCHECK_WARNING);
	assert_int_equal(fscheck_judge("vfat", 1, "fsck.fat 4.2\n\n0x41: Dirty bit is set.\n", detail), FSCHECK_WARNING);
	assert_string_equal(detail, "0x41: Dirty bit is set.");
	assert_int_equal(fscheck_judge("xfs", 1, "", detail), FSCHECK_BAD);
	assert_int_equal(fscheck_judge("xfs", 137, "", detail), FSCHECK_WARNING); /* killed: nothing is known */
	assert_int_equal(fscheck_judge("btrfs", 1, "[1/7] checking root items\nERROR: x\n", detail), FSCHECK_BAD);
	assert_string_equal(detail, "ERROR: x");
}

static void partition_tables_are_judged(void **state)
{
	char detail[FSCHECK_DETAIL_BYTES];

	(void)state;
	assert_int_equal(fscheck_judge_table(0, "No errors detected.\nUsing 3\n", detail), FSCHECK_GOOD);
	assert_int_equal(fscheck_judge_table(0, "The primary GPT table is corrupt, but x.\nNo errors detected.\n", detail), FSCHECK_WARNING);
	assert_string_equal(detail, "The primary GPT table is corrupt, but x.");
	assert_int_equal(fscheck_judge_table(0, "No errors detected.\nTotal 43008 greater than the maximum 32768.\n", detail),
			 FSCHECK_WARNING);
	assert_string_equal(detail, "Total 43008 greater than the maximum 32768.");
	assert_int_equal(fscheck_judge_table(0, "Partition 2: overlaps partition 3.\n1 error detected.\n", detail), FSCHECK_BAD);
	assert_int_equal(fscheck_judge_table(1, "sfdisk: x: no table\n", detail), FSCHECK_BAD);
	assert_string_equal(detail, "sfdisk: x: no table");
}

static void make(const char *const *argv)
{
	struct run_result result;

	assert_int_equal(run_program(argv, NULL, 60000, &result), 0);
	if (result.exit)
		fail_msg("%s: %s", argv[0], result.output);
}

/* The real programs, on images. xfs is mounted, which needs a device: tests/vm/cases/61-points-mount.sh. */
static void file_systems_are_checked(void **state)
{
	char dir[] = "/tmp/test-fscheck-XXXXXX", image[64], detail[FSCHECK_DETAIL_BYTES], *noise = malloc(1 << 20);
	const char *ext4[] = { "mkfs.ext4", "-q", "-b", "4096", image, "16M", NULL };
	const char *journal[] = { "debugfs", "-w", "-R", "journal_open", image, NULL };
	const char *btrfs[] = { "mkfs.btrfs", "-q", image, NULL }, *vfat[] = { "mkfs.fat", image, NULL };
	int fd;

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(image, sizeof(image), "%s/image", dir);
	fd = open(image, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);

	assert_int_equal(ftruncate(fd, 16 << 20), 0);
	make(ext4);
	assert_int_equal(fscheck(image, "ext4", 60000, detail), FSCHECK_GOOD);
	make(journal);
	assert_int_equal(fscheck(image, "ext4", 60000, detail), FSCHECK_GOOD);
	memset(noise, 0xa5, 1 << 20);
	assert_int_equal(pwrite(fd, noise, 1 << 19, 16384), 1 << 19); /* inodes, bitmaps */
	assert_int_equal(fscheck(image, "ext4", 60000, detail), FSCHECK_BAD);
	assert_string_not_equal(detail, "");
	assert_int_equal(fscheck(image, "ext4", 0, detail), FSCHECK_WARNING);
	assert_non_null(strstr(detail, "did not end in time"));

	assert_int_equal(ftruncate(fd, 0), 0);
	assert_int_equal(ftruncate(fd, 128 << 20), 0);
	make(btrfs);
	assert_int_equal(fscheck(image, "btrfs", 60000, detail), FSCHECK_GOOD);
	assert_int_equal(ftruncate(fd, 0), 0);
	assert_int_equal(ftruncate(fd, 16 << 20), 0);
	make(vfat);
	assert_int_equal(fscheck(image, "vfat", 60000, detail), FSCHECK_GOOD);
	assert_int_equal(pwrite(fd, "\x01", 1, 0x25), 1); /* as a mounted one has it */
	assert_int_equal(fscheck(image, "vfat", 60000, detail), FSCHECK_WARNING);
	assert_non_null(strstr(detail, "Dirty bit"));
	assert_int_equal(fscheck(image, "hfsplus", 60000, detail), FSCHECK_SKIPPED);
	assert_int_equal(ftruncate(fd, 0), 0);
	assert_int_equal(ftruncate(fd, 16 << 20), 0);
	assert_int_equal(fscheck_table(image, 60000, detail), FSCHECK_BAD);
	close(fd);
	unlink(image);
	rmdir(dir);
	free(noise);
}

static void verdicts(void **state)
{
	static const char *const cases[][2] = {
		{ "[]", "good" },
		{ "[{\"result\":\"good\"},{\"result\":\"skipped\"}]", "good" },
		{ "[{\"result\":\"warning\"},{\"result\":\"good\"}]", "warning" },
		{ "[{\"result\":\"bad\"},{\"result\":\"warning\"}]", "bad" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
		CLEANUP_JSON json_t *checks = json_loads(cases[i][0], 0, NULL);

		assert_string_equal(verify_verdict(checks), cases[i][1]);
	}
}

/* ---- programs ------------------------------------------------------------ */

static void programs_are_run(void **state)
{
	static const char *const failing[] = { "sh", "-c", "echo out; echo err >&2; printf 'a\\033b'; exit 3", NULL };
	static const char *const loud[] = { "sh", "-c", "head -c 100000 /dev/zero | tr '\\000' x; echo; echo end", NULL };
	static const char *const killed[] = { "sh", "-c", "kill -9 $$", NULL };
	static const char *const variable[] = { "sh", "-c", "echo $WHAT", NULL };
	static const char *const none[] = { "no-such-program-here", NULL };
	struct run_result result;

	(void)state;
	assert_int_equal(run_program(failing, NULL, 10000, &result), 0);
	assert_int_equal(result.exit, 3);
	assert_string_equal(result.output, "out\nerr\na?b");
	assert_string_equal(run_last_line(result.output), "a?b");
	assert_int_equal(run_program(loud, NULL, 10000, &result), 0);
	assert_int_equal(result.exit, 0);
	assert_int_equal(strlen(result.output), RUN_OUTPUT_BYTES);
	assert_int_equal(run_program(killed, NULL, 10000, &result), 0);
	assert_int_equal(result.exit, 128 + SIGKILL);
	assert_int_equal(run_program(variable, "WHAT=this=that", 10000, &result), 0);
	assert_string_equal(run_last_line(result.output), "this=that");
	assert_int_equal(run_program(none, NULL, 10000, &result), -ENOENT);
}

static void a_program_has_its_time(void **state)
{
	/* With its children, which have its output open. */
	static const char *const slow[] = { "sh", "-c", "echo begun; sleep 600 & sleep 600", NULL };
	static const char *const daemon[] = { "sh", "-c", "sleep 5 & echo gone", NULL };
	struct run_result result;
	uint64_t began = util_now_ms();

	(void)state;
	assert_int_equal(run_program(slow, NULL, 200, &result), -ETIMEDOUT);
	assert_string_equal(result.output, "begun\n");
	assert_true(util_now_ms() - began < 5000);
	began = util_now_ms();
	assert_int_equal(run_program(daemon, NULL, 60000, &result), 0);
	assert_string_equal(result.output, "gone\n");
	assert_true(util_now_ms() - began < 4000); /* what it left in the background is not waited for */
}

static void an_interrupt_ends_it_and_what_undoes_goes_on(void **state)
{
	static const char *const slow[] = { "sleep", "600", NULL };
	static const char *const quick[] = { "true", NULL };
	struct run_result result;

	(void)state;
	run_catch();
	assert_false(run_interrupted());
	raise(SIGINT);
	assert_true(run_interrupted());
	assert_int_equal(run_program(slow, NULL, 60000, &result), -EINTR);
	run_undo();
	assert_false(run_interrupted());
	assert_int_equal(run_program(quick, NULL, 10000, &result), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nbdkit_is_told_all),
		cmocka_unit_test(names_are_plain_and_short),
		cmocka_unit_test(uris_are_escaped),
		cmocka_unit_test(a_server_is_known_by_its_socket),
		cmocka_unit_test(a_disk_is_found_by_name),
		cmocka_unit_test(partitions_are_found),
		cmocka_unit_test(a_whole_disk_is_found),
		cmocka_unit_test(one_file_system_is_chosen),
		cmocka_unit_test(devices_and_options),
		cmocka_unit_test(checkers_are_understood),
		cmocka_unit_test(partition_tables_are_judged),
		cmocka_unit_test(file_systems_are_checked),
		cmocka_unit_test(verdicts),
		cmocka_unit_test(programs_are_run),
		cmocka_unit_test(a_program_has_its_time),
		cmocka_unit_test(an_interrupt_ends_it_and_what_undoes_goes_on),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
