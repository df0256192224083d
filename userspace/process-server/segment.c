// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * segment: see segment.h. Whatever bytes a file holds, the scan ends, stays inside its buffer
 * and reports only frames whose header and payload checksums are right.
 */
#include "segment.h"

#include <assert.h>
#include <ctype.h>
#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define SEGMENT_MAGIC 0x31474553544f5250u /* "PROTSEG1" */
#define SEGMENT_VERSION 2u
#define FRAME_CRC_AT 28u /* of the frame header: docs/wire-format.md */

struct segment_disk_header {
	uint64_t magic;
	uint32_t version;
	uint32_t crc; /* of the whole, this field 0 */
	char machine[40];
	uint64_t number;
	uint64_t epoch;
	uint64_t attempt;
	uint64_t last_complete;
	uint64_t last_applied;
	uint64_t max_epoch;
	uint32_t seq;
	uint32_t reserved;
};

static_assert(sizeof(struct segment_disk_header) == 112, "on-disk format");
static_assert(offsetof(struct segment_disk_header, number) == 56, "on-disk format");

void segment_encode(const struct segment_header *header, void *out)
{
	struct segment_disk_header disk = {
		.magic = htole64(SEGMENT_MAGIC),
		.version = htole32(SEGMENT_VERSION),
		.number = htole64(header->number),
		.epoch = htole64(header->epoch),
		.attempt = htole64(header->attempt),
		.last_complete = htole64(header->last_complete),
		.last_applied = htole64(header->last_applied),
		.max_epoch = htole64(header->max_epoch),
		.seq = htole32(header->seq),
	};

	memcpy(disk.machine, header->machine, SEGMENT_MACHINE_BYTES);
	disk.crc = htole32(wire_crc(&disk, sizeof(disk)));
	memset(out, 0, SEGMENT_HEADER_BYTES);
	memcpy(out, &disk, sizeof(disk));
}

int segment_decode(const void *in, struct segment_header *header)
{
	struct segment_disk_header disk;
	uint32_t crc;

	memcpy(&disk, in, sizeof(disk));
	if (le64toh(disk.magic) != SEGMENT_MAGIC)
		return -EPROTO;
	crc = le32toh(disk.crc);
	disk.crc = 0;
	if (wire_crc(&disk, sizeof(disk)) != crc)
		return -EBADMSG;
	if (le32toh(disk.version) != SEGMENT_VERSION)
		return -EPROTONOSUPPORT;
	memset(header, 0, sizeof(*header));
	memcpy(header->machine, disk.machine, SEGMENT_MACHINE_BYTES);
	header->number = le64toh(disk.number);
	header->epoch = le64toh(disk.epoch);
	header->attempt = le64toh(disk.attempt);
	header->seq = le32toh(disk.seq);
	header->last_complete = le64toh(disk.last_complete);
	header->last_applied = le64toh(disk.last_applied);
	header->max_epoch = le64toh(disk.max_epoch);
	return 0;
}

void segment_mark(void *header, uint64_t number)
{
	uint32_t crc;

	memcpy(&crc, (char *)header + FRAME_CRC_AT, sizeof(crc));
	crc ^= htole32((uint32_t)number);
	memcpy((char *)header + FRAME_CRC_AT, &crc, sizeof(crc));
}

int segment_frame(const void *header, uint64_t number, struct wire_frame *frame)
{
	char copy[WIRE_HEADER_BYTES];

	memcpy(copy, header, sizeof(copy));
	segment_mark(copy, number);
	return wire_decode(copy, frame, NULL);
}

void segment_name(uint64_t number, char *out)
{
	snprintf(out, SEGMENT_NAME_BYTES, "%016" PRIx64 ".seg", number);
}

void segment_spare_name(uint64_t number, char *out)
{
	snprintf(out, SEGMENT_NAME_BYTES, "%016" PRIx64 ".spare", number);
}

static bool name_number(const char *name, const char *suffix, uint64_t *number)
{
	*number = 0;
	if (strlen(name) != 16 + strlen(suffix) || strcmp(name + 16, suffix))
		return false;
	for (unsigned i = 0; i < 16; i++) {
		unsigned char c = (unsigned char)name[i];

		if (!isxdigit(c) || isupper(c))
			return false;
		*number = *number << 4 | (unsigned)(isdigit(c) ? c - '0' : c - 'a' + 10);
	}
	return true;
}

bool segment_number(const char *name, uint64_t *number)
{
	return name_number(name, ".seg", number);
}

bool segment_spare_number(const char *name, uint64_t *number)
{
	return name_number(name, ".spare", number);
}

/* Read until @bytes or the end of the file. */
static ssize_t read_at(int fd, char *to, size_t bytes, uint64_t offset)
{
	size_t got = 0;

	while (got < bytes) {
		ssize_t n = pread(fd, to + got, bytes - got, (off_t)(offset + got));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (!n)
			break;
		got += (size_t)n;
	}
	return (ssize_t)got;
}

static bool all_zero(const char *data, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		if (data[i])
			return false;
	return true;
}

int segment_scan(int fd, void *buffer, struct segment_header *header,
		 int (*frame)(const struct wire_frame *frame, uint64_t offset, void *user), void *user,
		 uint64_t *end, enum segment_end *how)
{
	char *data = buffer;
	uint64_t base; /* file offset of data[0] */
	size_t have, at = 0;
	bool eof = false;
	ssize_t n;
	int r;

	*end = SEGMENT_HEADER_BYTES;
	*how = SEGMENT_END_CLEAN;
	n = read_at(fd, data, SEGMENT_HEADER_BYTES, 0);
	if (n < 0)
		return (int)n;
	if ((size_t)n < SEGMENT_HEADER_BYTES)
		return -EPROTO;
	r = segment_decode(data, header);
	if (r)
		return r;
	base = SEGMENT_HEADER_BYTES;
	have = 0;
	for (;;) {
		struct wire_frame f;
		size_t whole;

		if (!eof && have - at < WIRE_HEADER_BYTES + WIRE_PAYLOAD_MAX) { /* the rest to the front, and more */
			memmove(data, data + at, have - at);
			base += at;
			have -= at;
			at = 0;
			n = read_at(fd, data + have, SEGMENT_SCAN_BYTES - have, base + have);
			if (n < 0)
				return (int)n;
			have += (size_t)n;
			eof = have < SEGMENT_SCAN_BYTES;
		}
		if (have - at < WIRE_HEADER_BYTES) {
			if (!all_zero(data + at, have - at))
				*how = SEGMENT_END_TORN;
			return 0;
		}
		if (segment_frame(data + at, header->number, &f)) {
			if (!all_zero(data + at, WIRE_HEADER_BYTES))
				*how = SEGMENT_END_TORN;
			return 0;
		}
		whole = WIRE_HEADER_BYTES + f.payload_bytes;
		if (whole > have - at ||
		    (f.payload_bytes && wire_crc(data + at + WIRE_HEADER_BYTES, f.payload_bytes) != f.payload_crc)) {
			*how = SEGMENT_END_TORN;
			return 0;
		}
		r = frame(&f, base + at, user);
		if (r < 0)
			return r;
		at += whole;
		*end = base + at;
	}
}
