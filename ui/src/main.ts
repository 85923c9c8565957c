// Where the pages begin: look, address, person, stream, in this order, so that the first paint is already right.
import './app.css';
import { mount } from 'svelte';
import App from './App.svelte';
import { live } from './lib/live.svelte';
import { nav } from './lib/nav.svelte';
import { session } from './lib/session.svelte';
import { look } from './lib/theme.svelte';

look.start();
nav.listen();
live.start();
void session.start();
mount(App, { target: document.getElementById('app')! });
