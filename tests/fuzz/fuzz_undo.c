/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fuzz_undo: the readers of the undo log. The first byte of the input says what the rest is:
 *
 *	0	given to every decoder as it is, and once more with its checksums made right
 *	1, 2	damage to a layer that was right, sealed or not: block (1 byte), offset (2), how many (1; with 0x80: and the checksums are made
 *		right again, so that what lies behind them is reached), the bytes
 *
 * Whatever a decoder accepts must make sense; reading must end; and where no checksum was made right, what is read must be what
 * was written.
 */
#include <endian.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "io.h"
#include "log.h"
#include "tests/unit/undo_build.h"
#include "undo_file.h"
#include "undo_layer.h"
#include "util.h"

#define BASE 5u
#define LAST 7u
#define RECORDS 40u
#define FILE_BLOCKS_MAX 64u

static const uint8_t log_uuid[UNDO_UUID_BYTES] = "a log's own uuid";

static void check(int good)
{
	if (!good)
		abort();
}

/* ---- a layer in memory --------------------------------------------------------- */

/* The files are there so that they can be opened; what is in them is read from here. */
static struct file {
	char name[UNDO_NAME_BYTES];
	uint8_t pristine[FILE_BLOCKS_MAX * UNDO_BLOCK];
	size_t bytes;
} files[2];

static uint8_t image[FILE_BLOCKS_MAX * UNDO_BLOCK];
static const struct file *current;
static struct build_record records[RECORDS];
static uint8_t content[RECORDS * 4096];
static int dir = -1;
static uint8_t *scratch;

static ssize_t memory_pread(int fd, void *data, size_t bytes, off_t offset)
{
	(void)fd;
	if ((size_t)offset >= current->bytes)
		return 0;
	if (bytes > current->bytes - (size_t)offset)
		bytes = current->bytes - (size_t)offset;
	memcpy(data, image + offset, bytes);
	return (ssize_t)bytes;
}

static const struct undo_file_ops memory_ops = { .pread = memory_pread };

static void prepare(void)
{
	const char *parent = getenv("TMPDIR");
	char path[256];
	size_t at = 0;

	log_init("fuzz_undo", (enum log_level)0);
	snprintf(path, sizeof(path), "%s/fuzz_undo.XXXXXX", parent ? parent : "/dev/shm");
	check(mkdtemp(path) != NULL);
	dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	scratch = io_buffer_alloc(UNDO_SCRATCH_BYTES);
	check(dir >= 0 && scratch);
	for (size_t i = 0; i < sizeof(content); i++)
		content[i] = (uint8_t)(i * 7 + i / 501 + 1);
	for (uint32_t i = 0; i < RECORDS; i++) {
		records[i] = (struct build_record){ .offset = (i * 17ull % RECORDS) * 4096, .disk = i % 2,
						    .length = 512 * (1 + i % 8), .content = i % 7 == 6 ? NULL : content + at };
		at += records[i].length;
	}
	for (unsigned f = 0; f < 2; f++) {
		int fd;

		undo_layer_name(files[f].name, BASE, LAST);
		build_layer(dir, log_uuid, BASE, LAST, "{\"epoch\": 5}", records, RECORDS, 10, f == 0);
		fd = openat(dir, files[f].name, O_RDONLY | O_CLOEXEC);
		files[f].bytes = (size_t)lseek(fd, 0, SEEK_END);
		check(files[f].bytes <= sizeof(image) &&
		      pread(fd, files[f].pristine, files[f].bytes, 0) == (ssize_t)files[f].bytes);
		close(fd);
	}
	undo_file = &memory_ops;
}

/* Both kinds have the same name, as the last state is what tells a batch's layer. */
static void use_file(unsigned f)
{
	int fd;

	if (current == &files[f])
		return;
	current = &files[f];
	fd = openat(dir, current->name, O_RDWR | O_CLOEXEC);
	check(fd >= 0 && !ftruncate(fd, (off_t)current->bytes));
	close(fd);
}

/* ---- checksums ----------------------------------------------------------------- */

static void put_crc(uint8_t *block, size_t bytes, size_t at)
{
	uint32_t crc;

	memset(block + at, 0, 4);
	crc = htole32(wire_crc(block, bytes));
	memcpy(block + at, &crc, 4);
}

static void seal_head(uint8_t *block, size_t bytes)
{
	uint32_t crc = htole32(wire_crc(block + UNDO_HEAD_BYTES, bytes - UNDO_HEAD_BYTES));

	memcpy(block + 56, &crc, 4);
	put_crc(block, UNDO_HEAD_BYTES, 12);
}

static void seal_all(void)
{
	struct undo_batch batch;
	uint8_t *foot = image + current->bytes - UNDO_BLOCK;
	uint64_t index_at, index_count;

	seal_head(image, UNDO_BLOCK);
	for (size_t at = UNDO_BLOCK; at + UNDO_BLOCK <= current->bytes; at += UNDO_BLOCK)
		if (undo_batch_decode(image + at, log_uuid, LAST, at, &batch) == -EBADMSG)
			put_crc(image + at, UNDO_BLOCK, 8);
	if (current != &files[0])
		return;
	memcpy(&index_at, foot + 48, 8);
	memcpy(&index_count, foot + 56, 8);
	index_at = le64toh(index_at);
	index_count = le64toh(index_count);
	if (index_at < current->bytes && index_count <= (current->bytes - index_at) / UNDO_RECORD_BYTES) {
		uint32_t crc = htole32(wire_crc(image + index_at, index_count * UNDO_RECORD_BYTES));

		memcpy(foot + 12, &crc, 4);
	}
	put_crc(foot, UNDO_BLOCK, 8);
}

/* ---- what is read -------------------------------------------------------------- */

static void check_record(const struct undo_record *record, uint64_t from, uint64_t end)
{
	check(record->length && record->length % 512 == 0 && record->offset % 512 == 0 && !(record->flags & ~UNDO_ZERO) &&
	      record->offset + record->length > record->offset);
	if (record->flags & UNDO_ZERO)
		check(!record->place && record->length <= UNDO_ZERO_MAX);
	else
		check(record->length <= UNDO_RECORD_MAX && record->place >= from && record->place <= end &&
		      record->length <= end - record->place);
}

static void check_order(const struct undo_record *list, size_t count)
{
	for (size_t i = 1; i < count; i++)
		check(list[i - 1].disk < list[i].disk ||
		      (list[i - 1].disk == list[i].disk && list[i - 1].offset + list[i - 1].length <= list[i].offset));
}

static const struct build_record *written(const struct undo_record *record)
{
	for (uint32_t i = 0; i < RECORDS; i++)
		if (records[i].disk == record->disk && records[i].offset == record->offset && records[i].length == record->length)
			return &records[i];
	return NULL;
}

/* Whether it is what was written, if it can be read at all. */
static bool read_right(const struct undo_layer *layer, const struct undo_piece *piece, const struct build_record *was)
{
	static uint8_t out[UNDO_RECORD_MAX];
	static const uint8_t zeros[UNDO_RECORD_MAX];

	/* Zeros are as long as they like. */
	if (piece->length > sizeof(out))
		return false;
	if (undo_layer_content(layer, piece, scratch, out))
		return true;
	return was && !memcmp(out, was->content ? was->content + piece->skip : zeros, piece->length);
}

static void check_layer(bool sealed_again)
{
	struct undo_record *list = NULL;
	struct undo_scan scan = { 0 };
	struct undo_map map = { 0 };
	struct undo_layer layer;
	char error[256];
	size_t count = 0;
	uint64_t end;

	if (undo_layer_open(&layer, dir, current->name, log_uuid, error, sizeof(error)))
		return;
	check(layer.head.base == BASE && layer.head.last == LAST && json_is_object(layer.meta));
	end = layer.sealed ? layer.foot.index_at : layer.bytes;
	if (layer.sealed) {
		undo_layer_records(&layer, &list, &count);
		check_order(list, count);
		check(sealed_again || !count || count == RECORDS);
	} else {
		undo_layer_scan(&layer, &scan, 1, false, &list, &count);
		undo_layer_scan(&layer, &scan, UINT64_MAX, true, &list, &count);
		check(scan.at <= end && count <= scan.seq * UNDO_BATCH_RECORDS);
		if (count)
			qsort(list, count, sizeof(*list), undo_record_order);
	}
	for (size_t i = 0; i < count; i++) {
		const struct build_record *was = written(&list[i]);
		struct undo_piece piece;
		uint64_t length = list[i].length;

		check_record(&list[i], UNDO_BLOCK, end);
		if (!undo_map_add(&map, &list[i], 1, (uint16_t)i) &&
		    undo_map_find(&map, list[i].disk, list[i].offset, &length, &piece))
			check(read_right(&layer, &piece, was) || sealed_again);
		else
			abort();
	}
	check(!undo_map_join(&map));
	undo_map_clear(&map);
	free(list);
	undo_layer_close(&layer);
}

static void check_chain(uint64_t committed)
{
	struct undo_chain chain;

	if (undo_chain_load(&chain, dir, log_uuid, committed))
		return;
	check(chain.count + (chain.open.last != 0) + (chain.open_damaged != 0) + chain.stray_count == 1);
	undo_chain_clear(&chain);
}

/* ---- decoders alone ------------------------------------------------------------ */

static void decode(uint8_t *block, size_t bytes)
{
	static struct undo_record list[UNDO_BLOCK / UNDO_RECORD_BYTES];
	struct undo_batch batch;
	struct undo_head head;
	struct undo_foot foot;
	const char *meta;
	uint64_t at;

	memcpy(&at, block + UNDO_BLOCK - 8, 8);
	if (!undo_head_decode(block, bytes, &head, &meta))
		check(head.base < head.last && head.batches_at <= bytes && meta >= (char *)block &&
		      meta + head.meta_bytes <= (char *)block + bytes);
	if (!undo_batch_decode(block, log_uuid, LAST, at, &batch)) {
		check(batch.count <= UNDO_BATCH_RECORDS && batch.bytes >= UNDO_BLOCK && batch.durable <= batch.seq);
		for (uint32_t i = 0; i < batch.count; i++)
			check_record(&batch.records[i], at + UNDO_BLOCK, at + batch.bytes);
	}
	for (uint64_t size = UNDO_BLOCK; size < 1u << 20; size *= 2)
		if (!undo_foot_decode(block, size, &foot))
			check(foot.base < foot.last && foot.index_at + foot.index_count * UNDO_RECORD_BYTES <= size - UNDO_BLOCK);
	if (!undo_records_decode(block, ARRAY_LENGTH(list), at, list)) {
		check_order(list, ARRAY_LENGTH(list));
		for (size_t i = 0; i < ARRAY_LENGTH(list); i++)
			check_record(&list[i], UNDO_BLOCK, at);
	}
}

static void decode_all(const uint8_t *data, size_t bytes)
{
	static uint8_t block[2 * UNDO_BLOCK];
	char name[UNDO_NAME_BYTES] = "", again[UNDO_NAME_BYTES];
	uint64_t base, last;

	if (bytes > sizeof(block))
		bytes = sizeof(block);
	memset(block, 0, sizeof(block));
	memcpy(block, data, bytes);
	decode(block, sizeof(block));
	memcpy(name, data, bytes < sizeof(name) ? bytes : sizeof(name) - 1);
	if (undo_layer_parse(name, &base, &last)) {
		undo_layer_name(again, base, last);
		check(!strcmp(name, again));
	}
	/* As a batch or a foot, then as a head. */
	put_crc(block, UNDO_BLOCK, 8);
	decode(block, sizeof(block));
	memcpy(block, data, bytes);
	seal_head(block, bytes > UNDO_BLOCK ? sizeof(block) : UNDO_BLOCK);
	decode(block, sizeof(block));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	bool sealed_again = false;

	if (dir < 0)
		prepare();
	if (bytes < 2)
		return 0;
	if (data[0] != 1 && data[0] != 2) {
		decode_all(data + 1, bytes - 1);
		return 0;
	}
	use_file(data[0] - 1u);
	memcpy(image, current->pristine, current->bytes);
	data++;
	bytes--;
	while (bytes > 4) {
		size_t at = data[0] % (current->bytes / UNDO_BLOCK) * UNDO_BLOCK + (data[1] | data[2] << 8) % UNDO_BLOCK;
		size_t n = data[3] & 0x7f;
		bool seal = data[3] & 0x80;

		data += 4;
		bytes -= 4;
		if (n > bytes)
			n = bytes;
		if (n > current->bytes - at)
			n = current->bytes - at;
		memcpy(image + at, data, n);
		if (seal)
			seal_all();
		sealed_again |= seal;
		data += n;
		bytes -= n;
	}
	check_layer(sealed_again);
	check_chain(LAST);
	check_chain(BASE);
	return 0;
}
