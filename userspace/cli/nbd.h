/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * nbd: an export as a block device of this machine, /dev/nbd<N>, through the kernel's nbd module and nbd-client. Called
 * by points mount, unmount and verify.
 */
#ifndef REPROTECT_CLI_NBD_H
#define REPROTECT_CLI_NBD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NBD_DEVICE_BYTES 32u

/** nbd_ready - load the module if it is not there, and see that nbd-client is. 0, or negative errno with a text */
int nbd_ready(char *error, size_t error_bytes);
/**
 * nbd_connect - connect a free device to @socket; it and its partitions are there when this returns
 * @size_bytes: what the device must have then
 * Return: 0 and @device, or negative errno with a text; then nothing is connected.
 */
int nbd_connect(const char *socket, uint64_t size_bytes, bool read_only, char device[NBD_DEVICE_BYTES], char *error,
		size_t error_bytes);
/** nbd_connected - whether @device is, to whatever */
bool nbd_connected(const char *device);
/** nbd_disconnect - 0 (also when it is not connected), or negative errno with a text */
int nbd_disconnect(const char *device, char *error, size_t error_bytes);

#endif
