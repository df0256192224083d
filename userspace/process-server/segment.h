/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * segment: the format of one segment file of the spool, and the scan that says what of it is
 * good. Used by spool.c (writing) and spool_recover.c (reading at start). No allocation, no policy.
 *
 *	0      header, 4096 bytes, struct segment_disk_header, the rest zeros
 *	4096   frames as on the wire (wire.h), each header marked with the number, one after the other
 *	       64 zero bytes or the end of the file, once the segment is closed
 *	       anything: zeros, or what the file held in an earlier life
 *
 * Files are named NNNNNNNNNNNNNNNN.seg (the number, hexadecimal, 16 digits). Numbers ascend
 * and are never used twice in one spool directory while a file of that number exists.
 *
 * A file whose segment is freed may get a new number and a new life, without being cleared. Frames of
 * an earlier life are never taken for frames of this one, whatever was written and lost in between:
 *
 *	- the mark is the number, exclusive-or-ed into the header checksum of each frame. A header of
 *	  number j read as number k would be good only if j = k (modulo 2^32), and all lives of a
 *	  file have different numbers (they ascend). This holds for any header, not only most;
 *	- a payload counts by the checksum in its header, so a stale one counts only if it is the same;
 *	- a header that names another number than the file name does is that of an earlier life: the
 *	  new one never reached the disk, and nothing behind it was ever relied on.
 *
 * So the scan ends behind the last frame of this life. Whether frames are missing there shows in the
 * seal: a closed segment has zeros, or its end, behind its last frame before anything newer is durable.
 */
#ifndef PROCESS_SERVER_SEGMENT_H
#define PROCESS_SERVER_SEGMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "wire.h"

#define SEGMENT_HEADER_BYTES 4096u
#define SEGMENT_BLOCK 4096u
#define SEGMENT_MACHINE_BYTES 36u /* uuid as text, without NUL */
#define SEGMENT_NAME_BYTES 32u

/**
 * struct segment_header - what a segment says of itself
 * @machine: uuid as text
 * @number: of the segment
 * @epoch, @attempt, @seq: of the frame that comes first (0: unknown, a new epoch)
 * @last_complete, @last_applied, @max_epoch: state of the machine when it was made
 */
struct segment_header {
	char machine[SEGMENT_MACHINE_BYTES + 1];
	uint64_t number;
	uint64_t epoch, attempt;
	uint32_t seq;
	uint64_t last_complete, last_applied, max_epoch;
};

/** segment_encode - into @out[SEGMENT_HEADER_BYTES] */
void segment_encode(const struct segment_header *header, void *out);
/** segment_decode - 0; -EPROTO not a segment, -EPROTONOSUPPORT another version, -EBADMSG checksum */
int segment_decode(const void *in, struct segment_header *header);

/** segment_mark - mark the encoded frame header at @header for segment @number (twice: undone) */
void segment_mark(void *header, uint64_t number);
/** segment_frame - wire_decode() of a frame header in segment @number */
int segment_frame(const void *header, uint64_t number, struct wire_frame *frame);

/** segment_name - the file's name in @out[SEGMENT_NAME_BYTES] */
void segment_name(uint64_t number, char *out);
/** segment_number - of a file's name; false: it is not a segment's */
bool segment_number(const char *name, uint64_t *number);
/** segment_spare_name - in @out[SEGMENT_NAME_BYTES], of a file that waits for a new life; @number: its last one */
void segment_spare_name(uint64_t number, char *out);
bool segment_spare_number(const char *name, uint64_t *number);

enum segment_end {
	SEGMENT_END_CLEAN, /* zeros or the end of the file follow the last frame */
	SEGMENT_END_TORN,  /* something that is no good frame follows; in the newest segment that is usual */
};

/**
 * segment_scan - check every frame of a segment
 * @fd: open for reading (not O_DIRECT)
 * @buffer: SEGMENT_SCAN_BYTES of memory
 * @frame: told of each good frame and its offset in the file; a negative return ends the scan
 * @header: filled in
 * @end: offset in the file behind the last good frame
 * @how: why it ended there
 *
 * Return: 0, what @frame returned, segment_decode()'s errors, or -errno of a read.
 */
#define SEGMENT_SCAN_BYTES (4u * 1024u * 1024u)
int segment_scan(int fd, void *buffer, struct segment_header *header,
		 int (*frame)(const struct wire_frame *frame, uint64_t offset, void *user), void *user,
		 uint64_t *end, enum segment_end *how);

#endif
