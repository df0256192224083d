/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * util: the few small things that every program needs and no library gives.
 */
#ifndef REPROTECT_UTIL_H
#define REPROTECT_UTIL_H

#include <dirent.h>
#include <jansson.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define ARRAY_LENGTH(a) (sizeof(a) / sizeof((a)[0]))
#define KIB 1024ull
#define MIB (1024ull * KIB)
#define GIB (1024ull * MIB)

/* Cleanup attributes: CLEANUP_FREE char *p; CLEANUP_FD int fd = -1; */
static inline void util_cleanup_free(void *p) { free(*(void **)p); }
static inline void util_cleanup_fd(int *fd) { if (*fd >= 0) close(*fd); }
static inline void util_cleanup_json(json_t **json) { json_decref(*json); }
static inline void util_cleanup_file(FILE **file) { if (*file) fclose(*file); }
static inline void util_cleanup_dir(DIR **dir) { if (*dir) closedir(*dir); }
#define CLEANUP_FREE __attribute__((cleanup(util_cleanup_free)))
#define CLEANUP_FD __attribute__((cleanup(util_cleanup_fd)))
#define CLEANUP_JSON __attribute__((cleanup(util_cleanup_json)))
#define CLEANUP_FILE __attribute__((cleanup(util_cleanup_file)))
#define CLEANUP_DIR __attribute__((cleanup(util_cleanup_dir)))

/** util_now_ms - CLOCK_BOOTTIME (monotonic over suspend) in milliseconds */
uint64_t util_now_ms(void);
uint64_t util_now_ns(void);
/** util_wall_ms - wall clock, milliseconds since 1970 */
uint64_t util_wall_ms(void);
/** util_random - 64 random bits, never 0 */
uint64_t util_random(void);

/**
 * util_write_file - replace @path with @bytes of @data, durably and atomically:
 * temporary file, fsync, rename, fsync of the directory. util_write_json: the same.
 */
int util_write_file(const char *path, const void *data, size_t bytes);
int util_write_json(const char *path, const json_t *json);
/** util_read_json - -ENOENT, -EBADMSG not JSON (with a text in @error), or 0 */
int util_read_json(const char *path, json_t **json, char *error, size_t error_bytes);
/** util_mkdirs - like mkdir -p, mode 0700 for what is made */
int util_mkdirs(const char *path);

/** util_rss_bytes - resident size of this process in bytes, 0 when it cannot be read */
uint64_t util_rss_bytes(void);

/** util_device_bytes - size of an open block device or regular file */
int util_device_bytes(int fd, uint64_t *bytes);

#endif
