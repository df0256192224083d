/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Layers of an undo log and the chain that they make: what was written is read, what is damaged, torn, missing, foreign or
 * in the way is told apart, and no flipped byte ever becomes content.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "io.h"
#include "log.h"
#include "tests/unit/undo_build.h"
#include "undo_file.h"
#include "undo_layer.h"
#include "util.h"

#define META "{\"epoch\": 3}"
#define RECORDS 300u
#define MANY 10000u

static const uint8_t log_uuid[UNDO_UUID_BYTES] = "a log's own uuid";
static const uint8_t other_uuid[UNDO_UUID_BYTES] = "another log uuid";

static struct rig {
	char path[64], error[512];
	int dir;
	uint8_t *scratch, *out;
} rig;

/* Where the rig lies: on a disk, with O_DIRECT where it can, and in memory. */
static int setup_in(const char *parent)
{
	snprintf(rig.path, sizeof(rig.path), "%s/test_undo_layer.XXXXXX", parent);
	if (!mkdtemp(rig.path))
		return -1;
	rig.dir = open(rig.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	rig.scratch = io_buffer_alloc(UNDO_SCRATCH_BYTES);
	rig.out = io_buffer_alloc(UNDO_RECORD_MAX);
	undo_file = &undo_file_real;
	return rig.dir < 0 || !rig.scratch || !rig.out;
}

static int setup(void **state) { (void)state; return setup_in("/tmp"); }
static int setup_memory(void **state) { (void)state; return setup_in("/dev/shm"); }

static int teardown(void **state)
{
	char command[128];

	(void)state;
	undo_file = &undo_file_real;
	close(rig.dir);
	free(rig.scratch);
	free(rig.out);
	snprintf(command, sizeof(command), "rm -rf %s", rig.path);
	return system(command);
}

static void put_byte(const char *name, uint64_t at, uint8_t mask)
{
	CLEANUP_FD int fd = openat(rig.dir, name, O_RDWR | O_CLOEXEC);
	uint8_t byte;

	assert_int_equal(pread(fd, &byte, 1, (off_t)at), 1);
	byte ^= mask;
	assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
}

/* ---- some records -------------------------------------------------------------- */

static struct build_record some[RECORDS];
static uint8_t content[RECORDS * 8192 + UNDO_RECORD_MAX];

static uint32_t some_length(uint32_t i) { return i == 7 ? UNDO_RECORD_MAX : 512 * (1 + i * 7 % 16); }

/* In no order, on two disks, of all lengths, some of them zeros. */
static void make_some(void)
{
	size_t at = 0;

	for (size_t i = 0; i < sizeof(content); i++)
		content[i] = (uint8_t)(i * 31 + i / 253 + 1);
	for (uint32_t i = 0; i < RECORDS; i++) {
		some[i] = (struct build_record){ .offset = (i * 37ull % RECORDS) * UNDO_RECORD_MAX, .disk = i % 2,
						 .length = some_length(i), .content = i % 9 == 8 ? NULL : content + at };
		at += some[i].length;
	}
}

static const struct build_record *some_at(uint32_t disk, uint64_t offset)
{
	for (uint32_t i = 0; i < RECORDS; i++)
		if (some[i].disk == disk && some[i].offset == offset)
			return &some[i];
	return NULL;
}

static struct undo_piece piece_of(const struct undo_record *record)
{
	return (struct undo_piece){ .offset = record->offset, .place = record->place, .disk = record->disk,
				    .length = record->length, .record_length = record->length, .crc = record->crc,
				    .flags = (uint16_t)record->flags };
}

/* Read it as a whole, and a part from its middle to a place that is not aligned. Returns the first error. */
static int read_record(const struct undo_layer *layer, const struct undo_record *record)
{
	const struct build_record *was = some_at(record->disk, record->offset);
	struct undo_piece piece = piece_of(record);
	int error;

	assert_non_null(was);
	assert_int_equal(record->length, was->length);
	memset(rig.out, 0xee, UNDO_RECORD_MAX);
	error = undo_layer_content(layer, &piece, rig.scratch, rig.out);
	if (error)
		return error;
	for (uint32_t i = 0; !was->content && i < was->length; i++)
		assert_int_equal(rig.out[i], 0);
	if (was->content)
		assert_memory_equal(rig.out, was->content, was->length);
	if (piece.length < 1024)
		return 0;
	piece.skip = 512;
	piece.length -= 512;
	error = undo_layer_content(layer, &piece, rig.scratch, rig.out + 512);
	if (!error && was->content)
		assert_memory_equal(rig.out + 512, was->content + 512, was->length - 512);
	return error;
}

/* ---- one layer ----------------------------------------------------------------- */

static void check_sealed(void)
{
	struct undo_layer layer;
	struct undo_record *records;
	char name[UNDO_NAME_BYTES];
	size_t count;

	undo_layer_name(name, 3, 4);
	assert_int_equal(undo_layer_open(&layer, rig.dir, name, log_uuid, rig.error, sizeof(rig.error)), 0);
	assert_true(layer.sealed && layer.head.base == 3 && layer.head.last == 4);
	assert_int_equal(json_integer_value(json_object_get(layer.meta, "epoch")), 3);
	assert_int_equal(undo_layer_records(&layer, &records, &count), 0);
	assert_int_equal(count, RECORDS);
	for (size_t i = 0; i < count; i++) {
		assert_true(!i || undo_record_order(&records[i - 1], &records[i]) < 0);
		assert_int_equal(read_record(&layer, &records[i]), 0);
	}
	free(records);
	undo_layer_close(&layer);
}

static void test_a_sealed_layer(void **state)
{
	(void)state;
	build_layer(rig.dir, log_uuid, 3, 4, META, some, RECORDS, 0, true);
	check_sealed();
}

static ssize_t short_pread(int fd, void *data, size_t bytes, off_t offset)
{
	static unsigned calls;

	if (++calls % 3 == 0)
		return -EINTR;
	return undo_file_real.pread(fd, data, calls % 2 && bytes > UNDO_BLOCK ? bytes / 2 / UNDO_BLOCK * UNDO_BLOCK : bytes, offset);
}

static void test_short_and_interrupted_reads(void **state)
{
	struct undo_file_ops ops = undo_file_real;

	(void)state;
	ops.pread = short_pread;
	undo_file = &ops;
	build_layer(rig.dir, log_uuid, 3, 4, META, some, RECORDS, 0, true);
	check_sealed();
	undo_file = &undo_file_real;
}

static void test_a_layer_without_records(void **state)
{
	struct undo_layer layer;
	struct undo_record *records;
	char name[UNDO_NAME_BYTES];
	size_t count;

	(void)state;
	undo_layer_name(name, 3, 4);
	build_layer(rig.dir, log_uuid, 3, 4, META, NULL, 0, 0, true);
	assert_int_equal(undo_layer_open(&layer, rig.dir, name, log_uuid, rig.error, sizeof(rig.error)), 0);
	assert_true(layer.sealed);
	assert_int_equal(undo_layer_records(&layer, &records, &count), 0);
	assert_int_equal(count, 0);
	free(records);
	undo_layer_close(&layer);
}

static void test_the_longest_description(void **state)
{
	CLEANUP_FREE char *meta = malloc(UNDO_META_MAX + 1);
	struct undo_layer layer;
	char name[UNDO_NAME_BYTES];

	(void)state;
	memset(meta, 'x', UNDO_META_MAX);
	memcpy(meta, "{\"x\":\"", 6);
	memcpy(meta + UNDO_META_MAX - 2, "\"}", 3);
	undo_layer_name(name, 3, 4);
	build_layer(rig.dir, log_uuid, 3, 4, meta, some, 10, 0, true);
	assert_int_equal(undo_layer_open(&layer, rig.dir, name, log_uuid, rig.error, sizeof(rig.error)), 0);
	assert_true(layer.sealed);
	assert_int_equal(json_string_length(json_object_get(layer.meta, "x")), UNDO_META_MAX - 8);
	undo_layer_close(&layer);
}

static void test_what_is_no_layer(void **state)
{
	static const char *const metas[] = { "[]", "{\"a\":1", "{\"a\":1,\"a\":2}" };
	struct undo_layer layer;
	char name[UNDO_NAME_BYTES], moved[UNDO_NAME_BYTES];
	int fd;

	(void)state;
	undo_layer_name(name, 3, 4);
#define OPEN(as, log) undo_layer_open(&layer, rig.dir, as, log, rig.error, sizeof(rig.error))
	assert_int_equal(OPEN(name, log_uuid), -ENOENT);
	assert_non_null(strstr(rig.error, name));
	/* An empty one, a short one, one of zeros, a directory, a link. */
	fd = openat(rig.dir, name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(ftruncate(fd, i * 4000), 0);
		assert_int_equal(OPEN(name, log_uuid), -ENODATA);
	}
	close(fd);
	assert_int_equal(mkdirat(rig.dir, "d", 0700), 0);
	assert_int_equal(OPEN("d", NULL), -ENODATA);
	assert_int_equal(symlinkat(name, rig.dir, "l"), 0);
	assert_int_equal(OPEN("l", NULL), -ENODATA);
	for (unsigned i = 0; i < ARRAY_LENGTH(metas); i++) {
		build_layer(rig.dir, log_uuid, 3, 4, metas[i], NULL, 0, 0, true);
		assert_int_equal(OPEN(name, log_uuid), -EBADMSG);
	}
	build_layer(rig.dir, log_uuid, 3, 4, META, some, 10, 0, true);
	assert_int_equal(OPEN(name, other_uuid), -ENODATA);
	assert_non_null(strstr(rig.error, "another log"));
	assert_int_equal(OPEN(name, NULL), 0);
	undo_layer_close(&layer);
	/* Under another layer's name it is damaged, under none at all it is what it is. */
	undo_layer_name(moved, 3, 5);
	assert_int_equal(renameat(rig.dir, name, rig.dir, moved), 0);
	assert_int_equal(OPEN(moved, log_uuid), -EBADMSG);
	assert_int_equal(renameat(rig.dir, moved, rig.dir, "x.undo.tmp"), 0);
	assert_int_equal(OPEN("x.undo.tmp", log_uuid), 0);
	undo_layer_close(&layer);
	put_byte("x.undo.tmp", 20, 1);
	assert_int_equal(OPEN("x.undo.tmp", NULL), -EBADMSG);
	assert_int_equal(layer.fd, -1);
	undo_layer_close(&layer);
#undef OPEN
}

static void test_index_made_again_from_the_batches(void **state)
{
	struct undo_layer layer;
	struct undo_record *records;
	char name[UNDO_NAME_BYTES];
	size_t count;

	(void)state;
	undo_layer_name(name, 3, 4);
	build_layer(rig.dir, log_uuid, 3, 4, META, some, RECORDS, 17, true);
	assert_int_equal(undo_layer_open(&layer, rig.dir, name, log_uuid, rig.error, sizeof(rig.error)), 0);
	put_byte(name, layer.foot.index_at + 100, 0x10);
	check_sealed();
	/* And a batch, too. */
	put_byte(name, layer.head.batches_at + 100, 0x10);
	assert_int_equal(undo_layer_records(&layer, &records, &count), -EBADMSG);
	assert_true(!records && !count);
	undo_layer_close(&layer);
}

static void test_not_sealed_is_read_as_far_as_wanted(void **state)
{
	struct undo_record *records = NULL;
	struct undo_layer layer;
	struct undo_scan scan = { 0 };
	char name[UNDO_NAME_BYTES];
	size_t count = 0;

	(void)state;
	undo_layer_name(name, 3, 4);
	build_layer(rig.dir, log_uuid, 3, 4, META, some, RECORDS, 30, false);
	assert_int_equal(undo_layer_open(&layer, rig.dir, name, log_uuid, rig.error, sizeof(rig.error)), 0);
	assert_false(layer.sealed);
	assert_int_equal(undo_layer_records(&layer, &records, &count), -EINVAL);
	for (unsigned batches = 0; batches <= 10; batches += 2) {
		assert_int_equal(undo_layer_scan(&layer, &scan, batches, batches % 4, &records, &count), 0);
		assert_int_equal(count, batches * 30);
		assert_int_equal(scan.seq, batches);
	}
	for (size_t i = 0; i < count; i++) {
		assert_true(records[i].disk == some[i].disk && records[i].offset == some[i].offset);
		assert_int_equal(read_record(&layer, &records[i]), 0);
	}
	/* No more, and that is no error unless somebody knows better. */
	assert_int_equal(undo_layer_scan(&layer, &scan, UINT64_MAX, true, &records, &count), 0);
	assert_int_equal(undo_layer_scan(&layer, &scan, 10, true, &records, &count), 0);
	assert_int_equal(undo_layer_scan(&layer, &scan, 11, true, &records, &count), -EBADMSG);
	assert_int_equal(count, RECORDS);
	free(records);
	undo_layer_close(&layer);
}

/*
 * Four batches of which some say how many before them were durable; one is damaged, in its first block or in its content. What a batch
 * behind says was durable must be there.
 */
static void test_a_torn_tail_is_told_from_damage(void **state)
{
	static const struct {
		uint64_t durable[4];
		unsigned broken, extra; /* extra: so many blocks of zeros behind */
		bool in_content, damage;
	} cases[] = {
		{ { 0, 0, 0, 0 }, 3, 0, false, false },	{ { 0, 0, 0, 0 }, 3, 0, true, false },
		{ { 0, 0, 0, 0 }, 0, 100, false, false }, { { 0, 0, 0, 0 }, 0, 0, true, false },
		{ { 0, 1, 2, 3 }, 3, 0, false, false },	{ { 0, 1, 2, 3 }, 3, 1000, true, false },
		{ { 0, 1, 2, 3 }, 2, 0, false, true },	{ { 0, 1, 2, 3 }, 2, 0, true, true },
		{ { 0, 0, 0, 2 }, 1, 0, false, true },	{ { 0, 0, 0, 2 }, 1, 100, true, true },
		{ { 0, 0, 0, 2 }, 2, 0, false, false },	{ { 0, 0, 0, 2 }, 2, 0, true, false },
		{ { 0, 0, 1, 0 }, 0, 0, false, true },	{ { 0, 0, 1, 0 }, 1, 0, false, false },
	};
	char name[UNDO_NAME_BYTES];

	(void)state;
	undo_layer_name(name, 3, 4);
	for (unsigned c = 0; c < ARRAY_LENGTH(cases); c++) {
		struct undo_record *records = NULL;
		struct undo_scan scan = { 0 };
		struct undo_layer layer;
		struct build build;
		size_t count = 0;
		uint64_t at[4];
		int error;

		build_begin(&build, rig.dir, log_uuid, 3, 4, META);
		for (unsigned i = 0; i < 4; i++) {
			at[i] = build.at;
			build.durable = cases[c].durable[i];
			build_batch(&build, some + i * 5, 5);
		}
		assert_int_equal(ftruncate(build.fd, (off_t)(build.at + cases[c].extra * UNDO_BLOCK + 512)), 0);
		build_end(&build);
		put_byte(name, at[cases[c].broken] + (cases[c].in_content ? UNDO_BLOCK + 700 : 70), 1);
		assert_int_equal(undo_layer_open(&layer, rig.dir, name, log_uuid, rig.error, sizeof(rig.error)), 0);
		error = undo_layer_scan(&layer, &scan, UINT64_MAX, true, &records, &count);
		assert_int_equal(error, cases[c].damage ? -EBADMSG : 0);
		assert_int_equal(count, cases[c].broken * 5);
		assert_int_equal(scan.seq, cases[c].broken);
		assert_int_equal(scan.at, at[cases[c].broken]);
		/* Who knows that they are durable gets an error in any case. */
		assert_int_equal(undo_layer_scan(&layer, &scan, 4, true, &records, &count), -EBADMSG);
		/* Content counts when it is looked at. */
		error = undo_layer_scan(&layer, &scan, UINT64_MAX, false, &records, &count);
		assert_int_equal(error, cases[c].damage && !cases[c].in_content ? -EBADMSG : 0);
		assert_int_equal(scan.seq, cases[c].in_content ? 4 : cases[c].broken);
		free(records);
		undo_layer_close(&layer);
	}
}

/* The last batch is cut off somewhere. */
static void test_a_file_that_ends_in_a_batch(void **state)
{
	struct undo_layer layer;
	struct build build;
	char name[UNDO_NAME_BYTES];
	uint64_t at;

	(void)state;
	undo_layer_name(name, 3, 4);
	build_begin(&build, rig.dir, log_uuid, 3, 4, META);
	build_batch(&build, some, 5);
	at = build.at;
	build_batch(&build, some + 5, 5);
	for (uint64_t end = build.at - 512; end >= at; end -= 512) {
		struct undo_record *records = NULL;
		struct undo_scan scan = { 0 };
		size_t count = 0;

		assert_int_equal(ftruncate(build.fd, (off_t)end), 0);
		assert_int_equal(undo_layer_open(&layer, rig.dir, name, log_uuid, rig.error, sizeof(rig.error)), 0);
		assert_int_equal(undo_layer_scan(&layer, &scan, UINT64_MAX, false, &records, &count), 0);
		assert_int_equal(count, 5);
		assert_int_equal(undo_layer_scan(&layer, &scan, 2, false, &records, &count), -EBADMSG);
		free(records);
		undo_layer_close(&layer);
	}
	build_end(&build);
}

static void test_a_piece_that_makes_no_sense(void **state)
{
	struct undo_layer layer;
	struct undo_record *records;
	struct undo_piece piece;
	char name[UNDO_NAME_BYTES];
	size_t count;

	(void)state;
	undo_layer_name(name, 3, 4);
	build_layer(rig.dir, log_uuid, 3, 4, META, some, 2, 0, true);
	assert_int_equal(undo_layer_open(&layer, rig.dir, name, log_uuid, rig.error, sizeof(rig.error)), 0);
	assert_int_equal(undo_layer_records(&layer, &records, &count), 0);
	piece = piece_of(&records[0]);
	piece.length += 512;
	assert_int_equal(undo_layer_content(&layer, &piece, rig.scratch, rig.out), -EINVAL);
	piece = piece_of(&records[0]);
	piece.skip = 512;
	assert_int_equal(undo_layer_content(&layer, &piece, rig.scratch, rig.out), -EINVAL);
	piece = piece_of(&records[0]);
	piece.length = piece.record_length = UNDO_RECORD_MAX + 512;
	assert_int_equal(undo_layer_content(&layer, &piece, rig.scratch, rig.out), -EINVAL);
	/* Behind the end of the file. */
	piece = piece_of(&records[0]);
	piece.place = layer.bytes;
	assert_int_equal(undo_layer_content(&layer, &piece, rig.scratch, rig.out), -EBADMSG);
	free(records);
	undo_layer_close(&layer);
}

/* ---- every byte ---------------------------------------------------------------- */

static struct memory_file {
	uint8_t *data;
	size_t bytes, flip_at;
	uint8_t mask;
	unsigned reads, fail_at;
} memory;

static ssize_t memory_pread(int fd, void *data, size_t bytes, off_t offset)
{
	(void)fd;
	if (memory.fail_at && ++memory.reads == memory.fail_at)
		return -EIO;
	if ((size_t)offset >= memory.bytes)
		return 0;
	if (bytes > memory.bytes - (size_t)offset)
		bytes = memory.bytes - (size_t)offset;
	memcpy(data, memory.data + offset, bytes);
	if (memory.mask && memory.flip_at >= (size_t)offset && memory.flip_at < (size_t)offset + bytes)
		((uint8_t *)data)[memory.flip_at - (size_t)offset] ^= memory.mask;
	return (ssize_t)bytes;
}

static const struct undo_file_ops memory_ops = { .pread = memory_pread };

static void load_memory(const char *name)
{
	CLEANUP_FD int fd = openat(rig.dir, name, O_RDONLY | O_CLOEXEC);
	struct stat status;

	assert_int_equal(fstat(fd, &status), 0);
	memory = (struct memory_file){ .bytes = (size_t)status.st_size, .data = malloc((size_t)status.st_size) };
	assert_int_equal(pread(fd, memory.data, memory.bytes, 0), status.st_size);
	undo_file = &memory_ops;
}

/*
 * Read all there is; what comes is right (read_record() asserts). Returns the first error, and how many of the
 * records were had.
 */
static int read_rest(const struct undo_layer *layer, uint64_t batches, size_t *had)
{
	CLEANUP_FREE struct undo_record *records = NULL;
	struct undo_scan scan = { 0 };
	size_t count = 0;
	int error;

	*had = 0;
	if (layer->sealed)
		error = undo_layer_records(layer, &records, &count);
	else
		error = undo_layer_scan(layer, &scan, batches, true, &records, &count);
	for (size_t i = 0; !error && i < count; i++) {
		error = read_record(layer, &records[i]);
		*had += !error;
	}
	return error;
}

static int read_all(const char *name, uint64_t batches, size_t *had)
{
	struct undo_layer layer;
	int error = undo_layer_open(&layer, rig.dir, name, log_uuid, rig.error, sizeof(rig.error));

	*had = 0;
	if (error)
		return error;
	error = read_rest(&layer, batches, had);
	undo_layer_close(&layer);
	return error;
}

#define SMALL 8u

static void test_no_flipped_byte_becomes_content(void **state)
{
	struct build_record small[SMALL];
	struct undo_layer layer;
	char name[UNDO_NAME_BYTES];
	uint32_t found = 0;

	(void)state;
	undo_layer_name(name, 3, 4);
	for (uint32_t i = 0; found < SMALL; i++)
		if (some[i].length <= 1536)
			small[found++] = some[i];
	for (unsigned sealed = 0; sealed < 2; sealed++) {
		size_t undetected = 0, tails = 0, had;

		build_layer(rig.dir, log_uuid, 3, 4, META, small, SMALL, SMALL / 2, sealed);
		load_memory(name);
		assert_int_equal(read_all(name, UINT64_MAX, &had), 0);
		assert_int_equal(had, SMALL);
		assert_int_equal(undo_layer_open(&layer, rig.dir, name, log_uuid, rig.error, sizeof(rig.error)), 0);
		for (memory.flip_at = 0; memory.flip_at < memory.bytes; memory.flip_at++) {
			/* Only head and foot are read to open it. */
			bool opens = memory.flip_at < layer.head.batches_at || memory.flip_at >= memory.bytes - UNDO_BLOCK;
			int error;

			memory.mask = (uint8_t)(1u << (memory.flip_at % 8));
			if (!sealed) {
				/* That they are durable is known. */
				error = opens ? read_all(name, 2, &had) : read_rest(&layer, 2, &had);
				assert_true(error ? had < SMALL : had == SMALL);
				undetected += !error;
			}
			error = opens ? read_all(name, UINT64_MAX, &had) : read_rest(&layer, UINT64_MAX, &had);
			/* One that is not sealed may have lost its tail, of which nothing says that it was durable. */
			assert_true(error || had == SMALL || (!sealed && had == SMALL / 2));
			tails += had == SMALL / 2 && !error;
			memory.mask = 0;
		}
		/* Only what lies between the content and the end of its batch does not count. */
		assert_true(sealed || (undetected > 0 && undetected < 2 * UNDO_BLOCK));
		assert_true(sealed ? !tails : tails > UNDO_BLOCK);
		undo_layer_close(&layer);
		free(memory.data);
		undo_file = &undo_file_real;
	}
}

static void test_no_failed_read_becomes_content(void **state)
{
	char name[UNDO_NAME_BYTES];

	(void)state;
	undo_layer_name(name, 3, 4);
	for (unsigned sealed = 0; sealed < 2; sealed++) {
		unsigned failed = 0, reads;
		size_t had;

		build_layer(rig.dir, log_uuid, 3, 4, META, some, SMALL, SMALL / 2, sealed);
		load_memory(name);
		memory.fail_at = UINT32_MAX;
		assert_int_equal(read_all(name, UINT64_MAX, &had), 0);
		reads = memory.reads;
		for (memory.fail_at = 1; memory.fail_at <= reads; memory.fail_at++) {
			int error;

			memory.reads = 0;
			error = read_all(name, UINT64_MAX, &had);
			assert_true(error == -EIO || (sealed && !error && had == SMALL));
			failed += error == -EIO;
		}
		/* Only for the index there is something else to read. */
		assert_int_equal(failed, reads - sealed);
		free(memory.data);
		undo_file = &undo_file_real;
	}
}

/* ---- chains -------------------------------------------------------------------- */

/* "1-2 2-3" sealed, "3-4!" not sealed, "1-2*" damaged head, "1-2?" another log's, "1-2#" cut off, "1-2^" newer version */
static void make_chain(const char *layers)
{
	char name[UNDO_NAME_BYTES];

	for (const char *at = layers; *at;) {
		char *end, kind;
		uint64_t base = strtoull(at, &end, 10), last = strtoull(end + 1, &end, 10);

		kind = *end;
		undo_layer_name(name, base, last);
		build_layer(rig.dir, kind == '?' ? other_uuid : log_uuid, base, last, META, some, 3, 0, kind != '!');
		if (kind == '*')
			put_byte(name, 30, 1);
		if (kind == '#') {
			CLEANUP_FD int fd = openat(rig.dir, name, O_RDWR | O_CLOEXEC);

			assert_int_equal(ftruncate(fd, 0), 0);
		}
		if (kind == '^') {
			CLEANUP_FD int fd = openat(rig.dir, name, O_RDWR | O_CLOEXEC);
			uint8_t head[UNDO_HEAD_BYTES];
			uint32_t version = 99, crc = 0;

			assert_int_equal(pread(fd, head, sizeof(head), 0), sizeof(head));
			memcpy(head + 8, &version, 4);
			memcpy(head + 12, &crc, 4);
			crc = wire_crc(head, sizeof(head));
			memcpy(head + 12, &crc, 4);
			assert_int_equal(pwrite(fd, head, sizeof(head), 0), sizeof(head));
		}
		at = end + strspn(end, "!*?#^ ");
	}
}

static void describe(char *text, size_t bytes, const struct undo_chain *chain)
{
	size_t at = 0;

#define ADD(...) at += (size_t)snprintf(text + at, bytes - at, __VA_ARGS__)
	text[0] = '\0';
	for (size_t i = 0; i < chain->count; i++) {
		const struct undo_entry *entry = &chain->entries[i];

		assert_true(entry->sealed && entry->bytes && entry->foot.index_count == 3 && json_is_object(entry->meta));
		ADD("%s%d-%d", i ? " " : "", (int)entry->base, (int)entry->last);
	}
	if (chain->open.last)
		ADD(" | %d-%d%s", (int)chain->open.base, (int)chain->open.last, chain->open.sealed ? "" : "!");
	if (chain->open_damaged)
		ADD(" | *%d", (int)chain->open_damaged);
	if (chain->gap)
		ADD(" gap");
	assert_int_equal(chain->gap, chain->why[0] != '\0');
#undef ADD
}

static void test_chains(void **state)
{
	static const struct {
		const char *layers;
		uint64_t committed;
		const char *expected;
		size_t strays;
	} cases[] = {
		{ "", 5, "", 0 },
		{ "1-2 2-3 3-4", 4, "1-2 2-3 3-4", 0 },
		{ "3-4 1-2 2-3 4-5!", 4, "1-2 2-3 3-4 | 4-5!", 0 },
		{ "1-2 2-3 3-4", 3, "1-2 2-3 | 3-4", 0 },		     /* sealed, not committed */
		{ "1-2 2-3 3-4", 2, "1-2 | 2-3", 1 },
		{ "1-2 2-3! 2-4! 2-5!", 2, "1-2 | 2-5!", 2 },		     /* epochs that were given up */
		{ "1-2 2-3! 2-4 2-5?", 2, "1-2 | 2-4", 2 },
		{ "1-2 2-3 3-4 1-4 4-5", 5, "1-4 4-5", 3 },		     /* merged, the old ones not removed yet */
		{ "1-2 2-3 3-4 1-3 4-5 2-4", 5, "1-2 2-4 4-5", 3 },
		{ "1-2 2-3 1-3!", 3, "1-2 2-3", 1 },			     /* a wider one that is not whole */
		{ "1-2 2-3 1-3*", 3, "1-2 2-3", 1 },
		{ "1-2 2-9 9-30 30-31!", 30, "1-2 2-9 9-30 | 30-31!", 0 },  /* numbers are left out */
		{ "1-2 3-4", 4, "3-4 gap", 1 },
		{ "1-2 2-3* 3-4", 4, "3-4 gap", 2 },
		{ "1-2 2-3# 3-4", 4, "3-4 gap", 2 },
		{ "1-2 2-3! 3-4", 4, "3-4 gap", 2 },
		{ "1-2 2-3? 3-4", 4, "3-4 gap", 2 },
		{ "2-3* 3-4", 4, "3-4 gap", 1 },
		{ "1-2! 3-4", 4, "3-4", 1 },				     /* an epoch given up before the oldest state */
		{ "1-2 2-3", 9, " gap", 2 },
		{ "1-2? 2-3?", 3, "", 2 },
		{ "1-2 2-3*", 2, "1-2 | *3", 0 },
		{ "1-2 2-3# 2-4!", 2, "1-2 | 2-4! | *3", 0 },
		{ "1-2 2-3! 2-5* 2-4#", 2, "1-2 | 2-3! | *5", 0 },
	};
	char text[512], command[128];

	(void)state;
	for (unsigned c = 0; c < ARRAY_LENGTH(cases); c++) {
		struct undo_chain chain;

		make_chain(cases[c].layers);
		assert_int_equal(undo_chain_load(&chain, rig.dir, log_uuid, cases[c].committed), 0);
		describe(text, sizeof(text), &chain);
		assert_string_equal(text, cases[c].expected);
		assert_int_equal(chain.stray_count, cases[c].strays);
		for (size_t i = 0; i < chain.stray_count; i++)
			assert_int_equal(faccessat(rig.dir, chain.stray[i], F_OK, 0), 0);
		undo_chain_clear(&chain);
		snprintf(command, sizeof(command), "rm -f %s/*", rig.path);
		assert_int_equal(system(command), 0);
	}
}

static void test_files_beside_the_layers(void **state)
{
	static const char *const names[] = { "tail", "marks.json", "marks.json.new", "0000000000000001-0000000000000003.undo.tmp",
					     "x.undo", "undo" };
	struct undo_chain chain;

	(void)state;
	make_chain("1-2 2-3");
	for (unsigned i = 0; i < ARRAY_LENGTH(names); i++)
		close(openat(rig.dir, names[i], O_RDWR | O_CREAT | O_CLOEXEC, 0600));
	assert_int_equal(undo_chain_load(&chain, rig.dir, log_uuid, 3), 0);
	assert_int_equal(chain.count, 2);
	assert_int_equal(chain.stray_count, 2);
	assert_true(strstr(chain.stray[0], "undo") && strstr(chain.stray[1], "undo"));
	undo_chain_clear(&chain);
}

static void test_a_newer_version_is_not_thrown_away(void **state)
{
	struct undo_chain chain;

	(void)state;
	make_chain("1-2 2-3^ 3-4");
	assert_int_equal(undo_chain_load(&chain, rig.dir, log_uuid, 4), -EPROTONOSUPPORT);
	assert_non_null(strstr(chain.why, "another version"));
	assert_true(!chain.count && !chain.stray_count && !chain.entries);
	undo_chain_clear(&chain);
}

static ssize_t failing_pread(int fd, void *data, size_t bytes, off_t offset)
{
	(void)fd;
	(void)data;
	(void)bytes;
	(void)offset;
	return -EIO;
}

static void test_a_chain_that_cannot_be_read(void **state)
{
	static const struct undo_file_ops ops = { .pread = failing_pread };
	struct undo_chain chain;

	(void)state;
	make_chain("1-2 2-3 3-4");
	undo_file = &ops;
	assert_int_equal(undo_chain_load(&chain, rig.dir, log_uuid, 3), 0);
	assert_true(chain.gap && !chain.count && chain.open_damaged == 4);
	undo_chain_clear(&chain);
	undo_file = &undo_file_real;
}

/* Fails at the name that counts it down to nothing. */
static int count_down(void *user, const char *name)
{
	unsigned *left = user;

	(void)name;
	return --*left ? 0 : -ENOMEM;
}

static void put_empty(const char *name)
{
	CLEANUP_FD int fd = openat(rig.dir, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
}

static void test_names_of_layers(void **state)
{
	static const struct undo_span expected[] = { { 1, 4 }, { 3, 4 }, { 4, 5 }, { 5, 7 } };
	struct undo_span *spans;
	size_t count;
	unsigned left;

	(void)state;
	/* One before them and one behind, in whatever order names are listed. */
	put_empty("tail");
	make_chain("1-2 2-3 3-4 1-4 4-5 5-7");
	put_empty("0000000000000001-0000000000000002.undo.tmp");
	left = 100;
	assert_int_equal(undo_span_list(rig.dir, 3, &spans, &count, count_down, &left), 0);
	assert_int_equal(left, 100 - 4); /* those two, . and .. */
	assert_int_equal(count, ARRAY_LENGTH(expected));
	assert_memory_equal(spans, expected, sizeof(expected));
	assert_int_equal(undo_span_find(spans, count, 4), 0);
	assert_int_equal(undo_span_find(spans, count, 5), 2);
	assert_int_equal(undo_span_find(spans, count, 6), 3);
	assert_int_equal(undo_span_find(spans, count, 8), 4);
	free(spans);
	/* Half of a list is none. */
	for (unsigned at = 1; at <= 4; at++) {
		left = at;
		assert_int_equal(undo_span_list(rig.dir, 0, &spans, &count, count_down, &left), -ENOMEM);
		assert_true(!count && !spans);
	}
}

static void test_many_layers_load_quickly(void **state)
{
	struct undo_chain chain;
	uint64_t start, ms;

	(void)state;
	for (uint64_t i = 1; i <= MANY; i++)
		build_layer(rig.dir, log_uuid, i, i + 1, META, some, 3, 0, i < MANY);
	start = util_now_ms();
	assert_int_equal(undo_chain_load(&chain, rig.dir, log_uuid, MANY), 0);
	ms = util_now_ms() - start;
	print_message("%u layers in %u ms\n", MANY, (unsigned)ms);
	assert_int_equal(chain.count, MANY - 1);
	assert_true(chain.open.last == MANY + 1 && !chain.open.sealed && !chain.stray_count && !chain.gap);
	assert_true(ms < 20000);
	undo_chain_clear(&chain);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define M(name) cmocka_unit_test_setup_teardown(name, setup_memory, teardown)
	const struct CMUnitTest tests[] = {
		T(test_a_sealed_layer), M(test_a_sealed_layer), M(test_short_and_interrupted_reads), M(test_a_layer_without_records),
		M(test_the_longest_description), M(test_what_is_no_layer), M(test_index_made_again_from_the_batches),
		T(test_not_sealed_is_read_as_far_as_wanted), M(test_a_torn_tail_is_told_from_damage),
		M(test_a_file_that_ends_in_a_batch), M(test_a_piece_that_makes_no_sense), M(test_no_flipped_byte_becomes_content),
		M(test_no_failed_read_becomes_content), M(test_chains), M(test_files_beside_the_layers),
		M(test_a_newer_version_is_not_thrown_away), M(test_a_chain_that_cannot_be_read), M(test_names_of_layers), M(test_many_layers_load_quickly),
	};

	log_init("test", (enum log_level)0);
	make_some();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
