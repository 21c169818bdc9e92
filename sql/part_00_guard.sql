\echo Use "CREATE EXTENSION streamsink" to load this file. \quit

