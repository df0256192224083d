/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * exports: the recovery points that are exported on this machine: an nbdkit for each disk, and a file
 * <directory>/<name>.json that says what it is. Called by points export, exports, unexport, mount, unmount and verify.
 *
 *	{"name", "machine", "host", "point", "point_name", "time", "disk", "disk_name", "size_bytes", "writable", "socket",
 *	 "uri", "pid", "started_ms", "used_by": null or {"device", "mount"}}
 *
 * Whoever changes the file has it locked; a file is there before its nbdkit, and goes after it. In a list there is besides "running".
 */
#ifndef REPROTECT_CLI_EXPORTS_H
#define REPROTECT_CLI_EXPORTS_H

#include <sys/un.h>

#include "cli.h"

#define EXPORTS_DIR "/run/reprotect/exports"
#define EXPORTS_NAME_BYTES 80u /* so that a socket's path has room */
#define EXPORTS_SOCKET_BYTES sizeof(((struct sockaddr_un *)0)->sun_path)
#define EXPORTS_URI_BYTES (3 * EXPORTS_SOCKET_BYTES + 32)

/**
 * struct exports_server - what an nbdkit is started with
 * @plugin: a path, or the name by which nbdkit finds it
 */
struct exports_server {
	const char *plugin, *socket, *pidfile, *log, *target;
	uint64_t state, size_bytes;
	unsigned disk;
	bool writable;
};

/** struct exports_command - its arguments; @argv points into @text */
struct exports_command {
	const char *argv[16];
	char text[8192];
};

/** exports_command - pure. 0, or -ENAMETOOLONG */
int exports_command(const struct exports_server *server, struct exports_command *command);
/** exports_name - "<host>-<disk>-<point>-<number>", of letters that a path, a shell and a URI take as they are. Pure. */
const char *exports_name(char out[EXPORTS_NAME_BYTES], const char *host, const char *disk, uint64_t point, unsigned number);
/** exports_uri - "nbd+unix:///?socket=...". Pure. */
const char *exports_uri(char out[EXPORTS_URI_BYTES], const char *socket);
/** exports_is_server - whether a process with these arguments (/proc/<pid>/cmdline) is the nbdkit at @socket. Pure. */
bool exports_is_server(const char *cmdline, size_t bytes, const char *socket);

/**
 * exports_start - export a disk, and wait until it answers
 * @point: what the master target answered: {"machine", "host", "log", "point": {"id", "name", "time"}}
 * @disk: one of its point.disks
 * Says on stderr what went wrong; then nothing is left. *@entry: as in the file.
 */
enum cli_exit exports_start(const struct cli_options *options, const json_t *point, const json_t *disk, bool writable,
			    json_t **entry);
/**
 * exports_end - end its nbdkit and remove its files. Says on stderr what went wrong.
 * Whoever uses it gets errors; that it is not mounted is for the caller to see.
 */
enum cli_exit exports_end(const struct cli_options *options, const json_t *entry);
/** exports_list - all, by name; what is left of those that have ended is removed, unless it is still in use. NULL: no memory */
json_t *exports_list(const struct cli_options *options);
/** exports_use - remember who uses it: @device and @mount, or NULL. 0 or negative errno */
int exports_use(const struct cli_options *options, const json_t *entry, const char *device, const char *mount);

/** point_resolve - what the master target says of a point; @disk may be NULL. Says on stderr what went wrong */
enum cli_exit point_resolve(const struct cli_options *options, const char *machine, const char *point, const char *disk,
			    json_t **answer);
/** point_disk - the disk of @answer that is called @name; NULL, said on stderr */
const json_t *point_disk(const json_t *answer, const char *name);

#endif
