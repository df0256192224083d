/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * spool: the durable queue of one machine: an index of epochs over a log of segment files.
 * machine.c owns one for each machine: upstream.c appends, downstream.c reads. One thread.
 *
 * Promises: what epoch @complete is told for is on stable storage; frames come out as they went in,
 * in order; memory is bounded by the window, the read ring and SPOOL_EPOCHS_MAX entries.
 *
 * A log position is a 64-bit byte address that ascends over all segments of a machine and
 * lives as long as the process. Position and place in the file agree modulo 4096, and
 * so does the place in the window: O_DIRECT writes go from the window to the file as they are.
 *
 *	window:  ... | written | issued | received, not issued | reserved for the next frame |
 *	              ^ floor: what lies below may be overwritten        head ^
 *
 * An entry of the index:
 *	state		means				goes to
 *	OPEN		BEGIN is here, END is not	ENDED, ABORTED
 *	ENDED		END is appended, not durable	COMPLETE, ABORTED (a sync failed)
 *	COMPLETE	durable: acknowledged		freed once applied
 *	ABORTED		never to be applied		freed once the reader has left it
 */
#ifndef PROCESS_SERVER_SPOOL_H
#define PROCESS_SERVER_SPOOL_H

#include <jansson.h>

#include "io.h"
#include "ring.h"
#include "segment.h"

#define SPOOL_EPOCHS_MAX 65536u
#define SPOOL_WRITES 4u
#define SPOOL_WRITE_BYTES (1024u * 1024u)
#define SPOOL_READS 2u
#define SPOOL_READ_BYTES (1024u * 1024u)
#define SPOOL_READ_RING_BYTES (4u * 1024u * 1024u)
#define SPOOL_SEGMENT_MIN (2u * 1024u * 1024u) /* holds any frame, and the slack */
#define SPOOL_SPARES_MAX 8u
#define SPOOL_SPARE_MS 60000u /* unused for so long, a spare is removed */
#define SPOOL_BOUNCE_BYTES (2 * SEGMENT_BLOCK)
#define SPOOL_SLACK (64u * 1024u) /* of a segment and of the window: for frames without payload */

/**
 * struct spool_store - what all spools share
 * @path, @dirfd: the spool directory, locked
 * @quota_bytes, @used_bytes: for the segment files of all machines
 * @segment_bytes: size of a new file
 * @window_bytes: of each machine
 * @direct: O_DIRECT; goes off when the file system refuses it
 * @spares: segment files that wait for a new life, newest first, of all machines; @spare_bytes of
 *	@used_bytes are theirs, and go to whoever needs room
 */
struct spool_store {
	char *path;
	int dirfd;
	int lockfd;
	uint64_t quota_bytes, used_bytes, segment_bytes, window_bytes;
	struct spool_spare *spares;
	unsigned spare_count;
	uint64_t spare_bytes;
	bool direct;
	struct io_engine *io;
};

/**
 * struct spool_spare - a whole segment file whose segment is freed, renamed to NNNNNNNNNNNNNNNN.spare
 * @number: of its last life
 * @syncing: a sync of the directory is in flight that began after the renaming
 * @ready: that is done: the file can come back under its old name no more, so it may be overwritten
 *
 * Writing to a spare's blocks takes neither allocation nor a commit of the file system's journal.
 */
struct spool_spare {
	struct spool_spare *next;
	struct spool *spool;
	uint64_t number, bytes, since_ms;
	int fd;
	bool syncing, ready;
};

enum spool_epoch_state { SPOOL_OPEN, SPOOL_ENDED, SPOOL_COMPLETE, SPOOL_ABORTED };

struct spool_epoch {
	struct spool_epoch *next;
	enum spool_epoch_state state;
	uint64_t epoch, attempt, previous;
	uint64_t start, end; /* positions; end is 0 while open */
	uint64_t data_bytes;
	uint32_t flags; /* WIRE_EPOCH_* */
	uint32_t frames;
};

/* Why nothing can be appended now. */
enum spool_wait { SPOOL_GO, SPOOL_WAIT_WINDOW, SPOOL_WAIT_QUOTA, SPOOL_WAIT_SPACE, SPOOL_WAIT_IO, SPOOL_WAIT_EPOCHS };

/**
 * struct spool_ops - what the owner is told, from the loop
 * @complete: @epoch is durable
 * @failed: @epoch could not be made durable and is aborted
 * @space: appending may be possible again
 * @readable: spool_frame() that said -EAGAIN may be called again
 * @save: state.json must be written now; 0 or negative errno
 */
struct spool_ops {
	void (*complete)(const struct spool_epoch *epoch, void *user);
	void (*failed)(const struct spool_epoch *epoch, int error, void *user);
	void (*space)(void *user);
	void (*readable)(void *user);
	int (*save)(void *user);
};

struct spool_segment {
	struct spool_segment *next;
	struct spool *spool;
	uint64_t number;
	uint64_t base;	     /* position of its first frame */
	uint64_t end;	     /* closed: position behind its last */
	uint64_t room_bytes; /* for frames */
	uint64_t file_bytes; /* what it counts against the quota */
	uint64_t synced;     /* frames below are durable, if @named */
	uint64_t sync_target, sync_sealed;
	uint64_t sealed;	 /* position with zeros or the end of the file behind it (UINT64_MAX: none) */
	uint64_t sealed_durable; /* the same, on stable storage */
	uint64_t header_complete; /* last_complete in its header */
	uint64_t holds_complete;  /* the newest complete epoch with frames in it: END says nothing without BEGIN */
	int fd;
	unsigned busy; /* requests in flight */
	bool closed, named, headed, syncing, broken;
	struct io_request header_io, name_io, sync_io;
	void *header;
};

struct spool_write {
	struct io_request io;
	struct spool_segment *segment;
	uint64_t start, end;
	bool done, failed;
};

struct spool_read {
	struct io_request io;
	struct spool_segment *segment;
	uint64_t end;
	bool busy, done;
	int result;
};

struct spool {
	struct spool_store *store;
	const struct spool_ops *ops;
	void *user;
	char machine[SEGMENT_MACHINE_BYTES + 1];
	int dirfd;

	/* the log */
	struct spool_segment *first, *last;
	unsigned segment_count;
	uint64_t next_number, first_number, bytes;
	struct ring *window;
	uint64_t window_start; /* nothing below was ever in the window */
	uint64_t head, reserved, issued, written, sync_wanted;
	struct spool_write writes[SPOOL_WRITES];
	unsigned write_first, write_count;
	struct spool_write tail;
	char *bounce; /* SPOOL_BOUNCE_BYTES */
	struct io_request spare_io; /* sync of the directory for spares */
	bool spare_syncing;
	bool tail_busy;
	enum spool_wait waits; /* why the last reserve failed */
	int io_error;	       /* a write that failed is waiting to be tried again */

	/* the index */
	struct spool_epoch *epochs, *epochs_last;
	struct spool_epoch *open;	/* the newest, when OPEN */
	const struct spool_epoch *held; /* where the reader is: not freed */
	unsigned epoch_count;
	uint64_t last_complete, last_applied, max_epoch;
	uint64_t saved_complete; /* last_complete in state.json; the owner sets it in @save */
	uint64_t damaged_segments;
	uint64_t aborted_epochs;

	/* the reader */
	struct ring *read_ring;
	struct spool_read reads[SPOOL_READS];
	unsigned read_first, read_count;
	uint64_t read_wanted, read_filled, read_next; /* positions: valid from wanted to filled; issued to next */
	bool read_waiting;
	int read_error;
	bool closing;
};

/* spool_store.c */

/** spool_store_open - make and lock the directory. -EWOULDBLOCK: another instance has it. @error: text */
int spool_store_open(struct spool_store *store, const char *path, char *error, size_t error_bytes);
void spool_store_close(struct spool_store *store);
/** spool_store_room - whether a new segment is within the quota */
bool spool_store_room(const struct spool_store *store);
/** spool_spare_keep - make a spare of the file of @s, which is freed. Return: whether @s->fd is taken */
bool spool_spare_keep(struct spool *spool, struct spool_segment *s);
/** spool_spare_take - give a spare of @spool the name @name. Return: fd (its bytes still count as used), or -ENOENT */
int spool_spare_take(struct spool *spool, const char *name, uint64_t *bytes);
/** spool_spare_drop - remove one of @spool (NULL: of any) that is unused for @ms. Return: whether there was one */
bool spool_spare_drop(struct spool_store *store, const struct spool *spool, uint64_t ms);
/** spool_spare_forget - of @spool, in memory; the files stay */
void spool_spare_forget(struct spool *spool);
/** spool_machine_valid - whether @name can be a machine's directory (a lower case uuid) */
bool spool_machine_valid(const char *name);

/* spool_recover.c */

/**
 * spool_open - open or make the spool of @machine, recovering what is in it: every frame is
 * checked, a torn tail is cut off, an epoch without END is closed with ABORT. Segments below
 * first_number are void. Blocks.
 */
struct spool_known { /* from state.json */
	uint64_t last_complete, last_applied, max_epoch, first_number;
};
int spool_open(struct spool **spool, struct spool_store *store, const char *machine,
	       const struct spool_known *known, const struct spool_ops *ops, void *user, char *error,
	       size_t error_bytes);

/* spool.c */

/** spool_free - forget it in memory; the files stay. Call io_engine_free() first. */
void spool_free(struct spool *spool);
/** spool_ready - whether a frame without payload can be appended; else spool->waits says why not */
bool spool_ready(struct spool *spool);
/**
 * spool_reserve - memory for the payload of the next frame, @payload_bytes long
 * Return: NULL: spool->waits says why. It stays reserved until spool_append() or spool_unreserve().
 */
void *spool_reserve(struct spool *spool, uint32_t payload_bytes);
void spool_unreserve(struct spool *spool);
/**
 * spool_append - append a frame; its payload is where spool_reserve() said
 * BEGIN opens an entry (the caller has aborted what was open), END closes it and asks for it to be durable.
 * Return: 0, -ENOSPC or -ENOMEM (nothing is appended).
 */
int spool_append(struct spool *spool, const struct wire_frame *frame);
/** spool_abort - the open epoch will not be ended */
void spool_abort(struct spool *spool);
/** spool_applied - epochs up to @epoch are on the target: free them */
void spool_applied(struct spool *spool, uint64_t epoch);
/** spool_reset - drop all epochs; the machine is at @epoch. Blocks shortly. 0 or why state cannot be saved. */
int spool_reset(struct spool *spool, uint64_t epoch);
/** spool_hold - the reader is in @epoch (NULL: in none) */
void spool_hold(struct spool *spool, const struct spool_epoch *epoch);
/** spool_reclaim - free segments that nobody needs; @all: the newest too */
void spool_reclaim(struct spool *spool, bool all);
/** spool_retry - try again what failed (call it every second or so) */
void spool_retry(struct spool *spool);
/** spool_durable - position below which all is on stable storage */
uint64_t spool_durable(const struct spool *spool);
const char *spool_wait_text(enum spool_wait wait);
uint64_t spool_epochs_bytes(const struct spool *spool);

/* spool_read.c */

/**
 * spool_frame - the frame at position *@pos
 * @pos: moved on to the next segment when it is at the end of one
 * @payload: in the window or the read ring; @ring: which; pin it to keep it (ring_pin(*ring, *pos))
 *
 * Return: 0; -EAGAIN it is being read (ops->readable follows); -ENODATA not appended yet;
 * -EBADMSG the spool is damaged there; other errors of reading.
 */
int spool_frame(struct spool *spool, uint64_t *pos, struct wire_frame *frame, const void **payload,
		struct ring **ring);
/** spool_read_stop - the reader is away; nothing of the read ring is pinned */
void spool_read_stop(struct spool *spool);

/* between the spool_*.c */
struct spool_segment *spool_segment_at(struct spool *spool, uint64_t pos);
int spool_segment_open_flags(const struct spool_store *store);
void spool_add_epoch(struct spool *spool, struct spool_epoch *epoch);
void spool_kick(struct spool *spool);

static inline uint64_t spool_round_up(uint64_t n) { return (n + SEGMENT_BLOCK - 1) / SEGMENT_BLOCK * SEGMENT_BLOCK; }
static inline uint64_t spool_round_down(uint64_t n) { return n / SEGMENT_BLOCK * SEGMENT_BLOCK; }

#endif
