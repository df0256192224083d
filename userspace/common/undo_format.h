/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * undo_format: the undo log as it lies on the retention volume. Pure: bytes in, structs
 * out; no I/O. Written by the master target, read by it, by the export plugin and by the command line.
 *
 * A machine's log is a chain of layers, one file each. The content of its disks after a
 * complete epoch (or a rollback) is a *state* and has a number that is never used again. The layer <base>-<last>.undo has what the
 * disks had in state <base> wherever they differ in state <last>: laying it over state <last> gives
 * state <base>. Where two layers of a chain have the same block, the older one counts.
 *
 *	offset		what
 *	0		head: which log, which layer; what state <base> is (JSON)
 *	...		batches: a block of up to 125 records, and behind it their content
 *	...		index: all records, sorted; only in a layer that is complete ("sealed")
 *	last block	foot: where the index is; only in a sealed layer
 *
 * Everything is little endian and in blocks of 4 KiB. Whatever is read is checked first: head, foot and batch headers and the index
 * by their own CRC32C, content by the CRC32C of its record. The index can be made again
 * from the batches. A batch says how many batches before it were durable when it was written, which tells a
 * torn tail (never acted upon, ignored) from damage (refused).
 */
#ifndef REPROTECT_UNDO_FORMAT_H
#define REPROTECT_UNDO_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define UNDO_VERSION 1u
#define UNDO_BLOCK 4096u
#define UNDO_UUID_BYTES 16u
#define UNDO_RECORD_MAX 65536u		  /* content of one record; it is read and checked as a whole */
#define UNDO_ZERO_MAX (1u << 30)	  /* length of a record without content */
#define UNDO_BATCH_RECORDS 125u		  /* that fit into a batch's first block */
#define UNDO_BATCH_BYTES (1024u * 1024u)  /* a batch at most, its first block included */
#define UNDO_META_MAX (60u * 1024u)	  /* JSON in the head */
#define UNDO_HEAD_BYTES 64u
#define UNDO_RECORD_BYTES 32u

#define UNDO_ZERO (1u << 0) /* the range was zero: no content */

/**
 * struct undo_record - a range of a disk as it was
 * @disk: id from the HELLO
 * @offset, @length: bytes; multiples of 512
 * @place: of the content, bytes from the start of the file, a multiple of 512; 0 for UNDO_ZERO
 * @crc: CRC32C of the content; 0 for UNDO_ZERO
 * @flags: UNDO_ZERO
 */
struct undo_record {
	uint64_t offset, place;
	uint32_t length, disk, crc, flags;
};

/**
 * struct undo_head - the beginning of a layer
 * @log: random; tells this log from any other, also of the same machine
 * @base, @last: the states that it joins, base < last
 * @meta_bytes: JSON behind the first UNDO_HEAD_BYTES of the file, see points.h
 * @batches_at: where the first batch is; follows from @meta_bytes (undo_head_room())
 */
struct undo_head {
	uint8_t log[UNDO_UUID_BYTES];
	uint64_t base, last;
	uint32_t meta_bytes;
	uint32_t batches_at;
};

/**
 * struct undo_batch - the first block of a batch
 * @last: of the layer
 * @seq: from 0
 * @durable: batches of this layer that were durable when this one was written, @seq at most
 * @bytes: of the batch with this block; a multiple of UNDO_BLOCK
 */
struct undo_batch {
	uint64_t last, seq, durable;
	uint32_t count, bytes;
	struct undo_record records[UNDO_BATCH_RECORDS];
};

/**
 * struct undo_foot - the last block of a sealed layer
 * @index_at, @index_count, @index_crc: the records, sorted by disk and offset, none overlapping another; the CRC32C is of
 *	index_count * UNDO_RECORD_BYTES, the rest of the last block is zero. The foot is the block behind the index.
 * @batches: number; they end where the index begins
 * @content_bytes: of all records that have content; @range_bytes: of all records
 */
struct undo_foot {
	uint8_t log[UNDO_UUID_BYTES];
	uint64_t base, last;
	uint64_t index_at, index_count, batches, content_bytes, range_bytes;
	uint32_t index_crc;
};

/** undo_head_encode - @meta_bytes of JSON at @meta into @out, which has undo_head_room(meta_bytes) bytes */
void undo_head_encode(const struct undo_head *head, const char *meta, void *out);
/** undo_head_room - bytes of a head with that much JSON: whole blocks */
size_t undo_head_room(size_t meta_bytes);
/**
 * undo_head_decode - @in has @bytes from the start of the file (the first block at least)
 * Return: 0; -ENODATA not a layer; -EPROTONOSUPPORT another version; -EBADMSG damaged; -EAGAIN more bytes
 * are needed (then @head->batches_at says how many). @meta points into @in.
 */
int undo_head_decode(const void *in, size_t bytes, struct undo_head *head, const char **meta);

/** undo_batch_encode - into @out[UNDO_BLOCK] */
void undo_batch_encode(const struct undo_batch *batch, const uint8_t log[UNDO_UUID_BYTES], void *out);
/**
 * undo_batch_decode - of the layer of @log and @last, at @at in the file. Every record lies inside the batch and
 * makes sense. Return: 0; -ENODATA no batch of this layer; -EBADMSG it was one, and is damaged.
 */
int undo_batch_decode(const void *in, const uint8_t log[UNDO_UUID_BYTES], uint64_t last, uint64_t at,
		      struct undo_batch *batch);

void undo_foot_encode(const struct undo_foot *foot, void *out);
/** undo_foot_decode - @file_bytes: size of the file. 0; -ENODATA no foot; -EBADMSG damaged */
int undo_foot_decode(const void *in, uint64_t file_bytes, struct undo_foot *foot);

/** undo_records_encode, undo_records_decode - the index; UNDO_RECORD_BYTES each. Both sides may be the same memory */
void undo_records_encode(const struct undo_record *records, size_t count, void *out);
/** Return: 0; -EBADMSG a record that makes no sense, or that is not behind the one before it */
int undo_records_decode(const void *in, size_t count, uint64_t content_end, struct undo_record *records);

/** undo_record_order - for qsort: by disk, then by offset */
int undo_record_order(const void *a, const void *b);

#define UNDO_UUID_TEXT (2 * UNDO_UUID_BYTES + 1)
/** undo_uuid_text - hexadecimal digits; undo_uuid_parse - the reverse, false for anything else */
const char *undo_uuid_text(const uint8_t uuid[UNDO_UUID_BYTES], char out[UNDO_UUID_TEXT]);
bool undo_uuid_parse(const char *text, uint8_t uuid[UNDO_UUID_BYTES]);

#define UNDO_NAME_BYTES 48u
/** undo_layer_name - "<base>-<last>.undo", 16 hexadecimal digits each */
void undo_layer_name(char out[UNDO_NAME_BYTES], uint64_t base, uint64_t last);
/** undo_layer_parse - whether @name is one */
bool undo_layer_parse(const char *name, uint64_t *base, uint64_t *last);

#endif
