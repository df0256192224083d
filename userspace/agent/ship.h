/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ship: reads the blocks of one epoch with many reads in flight and puts them on the
 * connection in order, straight from the buffers they were read into. Called by epoch.c.
 *
 * Memory is a fixed pool of windows of 1 MiB: a window holds up to 64 reads, is sent when all
 * of them are back, and is free again when the connection has written its frames.
 *
 *	state     event                        next
 *	IDLE      ship_begin                   SENDING
 *	SENDING   last frame queued            SENT      (END is queued, hook sent)
 *	SENDING   a read failed                FAILED    (hook failed)
 *	SENT      ship_finish                  IDLE      (when all windows are back)
 *	any       ship_cancel                  DRAINING
 *	DRAINING  reads and windows are back   IDLE      (hook idle)
 */
#ifndef REPROTECT_AGENT_SHIP_H
#define REPROTECT_AGENT_SHIP_H

#include <systemd/sd-event.h>

#include "conn.h"
#include "io.h"
#include "linux/blkcbt.h"
#include "slicer.h"
#include "wire.h"

#define SHIP_WINDOWS 32u
#define SHIP_WINDOW_BYTES (1024u * 1024u)
#define SHIP_WINDOW_READS 64u

struct ship;

/*
 * A disk as slice_extent.disk counts it. @image_fd: what to read it from first, or -1; @fd: the disk itself,
 * for when the image is lost.
 */
struct ship_disk {
	int fd, image_fd;
	uint32_t id;
	uint32_t granule_bytes;
	uint64_t size_bytes;
};

/**
 * struct ship_epoch - what to send
 * @slice: extents, stay valid until SENT or IDLE; NULL when @verify
 * @verify: no data, but a VERIFY frame for every 64 MiB of every disk
 */
struct ship_epoch {
	uint64_t number, attempt, previous;
	uint32_t flags;
	const struct slice *slice;
	bool verify;
	const struct ship_disk *disks;
	size_t disk_count;
};

struct ship_progress {
	uint64_t total_bytes, read_bytes, queued_bytes;
	uint64_t data_bytes, zero_bytes;
	uint64_t last_read_ms; /* when a read last came back */
	unsigned reads;	       /* in flight */
};

/**
 * enum ship_verdict - whether END may be sent
 * @SHIP_END_GO: yes; not asked again
 * @SHIP_END_WAIT: not yet: asked again after ship_writable()
 * @SHIP_END_NO: no; the owner cancels
 */
enum ship_verdict { SHIP_END_GO, SHIP_END_WAIT, SHIP_END_NO };

/* What goes with END: WIRE_END_*, and the payload of a TAG frame (malloc'ed, ship's from then on) or NULL. */
struct ship_end {
	uint32_t flags;
	char *tag;
};

/**
 * struct ship_hooks - what epoch.c is told, always from the event loop
 * @before_end: all has been read and queued but END
 * @read: these extents of @disk have been read (not when verifying)
 * @image_lost: a read through an image failed: true: read the disks themselves from now on
 * @sent: END is queued
 * @failed: a read failed: @disk (slice_extent.disk) at @offset_bytes; or disk -1: sending
 *	failed with @error. Cancel.
 * @idle: after ship_cancel: a new epoch can begin
 */
struct ship_hooks {
	enum ship_verdict (*before_end)(void *user, struct ship_end *end);
	void (*read)(void *user, uint32_t disk, const struct blkcbt_extent *extents, size_t count);
	bool (*image_lost)(void *user);
	void (*sent)(void *user);
	void (*failed)(void *user, int disk, uint64_t offset_bytes, int error);
	void (*idle)(void *user);
};

int ship_new(struct ship **ship, sd_event *event, struct io_engine *io,
	     const struct ship_hooks *hooks, void *user);
/** ship_free - the engine must be freed (or idle) and the connection closed before */
void ship_free(struct ship *ship);
/** ship_begin - -EBUSY when not idle */
int ship_begin(struct ship *ship, struct conn *conn, const struct ship_epoch *epoch);
/** ship_writable - the connection takes frames again, or what END waits for is there */
void ship_writable(struct ship *ship);
/** ship_finish - the epoch that is SENT is acknowledged */
void ship_finish(struct ship *ship);
/** ship_cancel - stop; @conn_alive: an ABORT frame is sent. idle() comes later. */
void ship_cancel(struct ship *ship, bool conn_alive);
bool ship_is_idle(const struct ship *ship);
void ship_progress(const struct ship *ship, struct ship_progress *progress);

#endif
